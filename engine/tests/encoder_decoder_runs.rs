//! An encoder-decoder as a user meets it: a tiny mT5 of random weights learns a task, fully, with LoRA and in some layers;
//! it resumes to the bit, is merged, exported and asked. What makes no sense for it is refused.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../examples/tiny_mt5/make.rs"]
mod make;

use api::{JobKind, Outcome, Problem, chat::FinishReason, data::Message, params::GenerateParams};
use candle_core::{Device, Tensor};
use common::{
    Oracle,
    jobs::{self, Ended, config_of, places},
};
use engine::{
    bench::{MethodBench, method},
    files::locate::describe,
    loaded::Loaded,
    model::Batch,
    prepare,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

/// A data folder with a task and a model's shape.
struct Home {
    dir: tempfile::TempDir,
}

const QUESTION: &str = "How was it?";

/// Sentences with what was thought of the thing; half of them are good.
fn rows() -> Vec<Value> {
    let things = ["film", "soup", "trip", "song", "book", "room", "game", "walk", "play", "cake"];
    let words = [("lovely", "good"), ("great", "good"), ("awful", "bad"), ("plain", "fair")];
    let row = |i: usize| {
        let (word, label) = words[i % 4];
        let (thing, other) = (things[i / 4 % 10], things[(i * 7 + i / 40) % 10]);
        json!({"instruction": QUESTION, "input": format!("The {thing} with the {other} was {word}."), "output": label})
    };
    (0..120).map(row).collect()
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        let data = home.path().join("datasets");
        fs::create_dir_all(&data).unwrap();
        let texts: Vec<String> = rows()
            .iter()
            .flat_map(|row| {
                row.as_object().unwrap().values().map(|v| v.as_str().unwrap().to_string()).collect::<Vec<_>>()
            })
            .collect();
        let size = make::Size { vocabulary: 120, width: 32, heads: 4, layers: 2 };
        make::write(&home.shape(), &texts, &size).unwrap();
        fs::write(data.join("task.json"), Value::from(rows()).to_string()).unwrap();
        fs::write(data.join("dataset_info.json"), json!({"task": {"file_name": "task.json"}}).to_string()).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn shape(&self) -> PathBuf {
        self.path().join("models/shape")
    }

    /// A run of so many steps on a model; `more` replaces settings.
    fn config(&self, model: &Path, tuning: &str, steps: u64, more: Value) -> Value {
        let mut config = json!({
            "model_name_or_path": model, "stage": "sft", "finetuning_type": tuning, "dataset": "task", "val_size": 0.1,
            "max_steps": steps, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
            "learning_rate": 5e-3, "save_steps": 0, "eval_steps": steps, "compute_type": "fp32"
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn job(&self, kind: JobKind, name: &str, config: Value, stop_after: Option<u64>) -> Ended {
        jobs::job(self.path(), &self.path().join("runs").join(name), kind, config_of(config), stop_after)
    }

    fn train(&self, name: &str, config: Value) -> Ended {
        let ended = self.job(JobKind::Train, name, config, None);
        assert_eq!(ended.outcome, Outcome::Succeeded, "{name}: {:?}", ended.events.last());
        ended
    }

    /// All weights, from random ones.
    fn base(&self, steps: u64) -> Ended {
        self.train("base", self.config(&self.shape(), "full", steps, json!({"train_from_scratch": true})))
    }

    fn merge(&self, base: &Path, adapter: &Path) -> PathBuf {
        let merged = self.path().join("exports/merged");
        let config = json!({"model_name_or_path": base, "adapter_name_or_path": adapter, "export_dir": merged, "export_dtype": "float32"});
        assert_eq!(self.job(JobKind::Export, "export", config, None).outcome, Outcome::Succeeded);
        merged
    }

    fn load(&self, model: &Path, adapter: Option<&Path>) -> Loaded {
        jobs::load(self.path(), model, adapter)
    }

    fn refused(&self, config: Value) -> Vec<Problem> {
        prepare::plan(&config_of(config), &places(self.path())).unwrap_err().into_problems()
    }
}

fn answer(loaded: &Loaded, text: &str, params: &GenerateParams) -> (String, FinishReason) {
    let messages = [Message::new("user", "Hello."), Message::new("assistant", "Hi."), Message::new("user", text)];
    let request = loaded.answer(&messages, None, params.clone()).unwrap();
    let said = loaded.engine().unwrap().answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0.remove(0);
    (said.text, said.reason)
}

/// A batch of some rows, as the run encodes them.
fn batch(loaded: &Loaded) -> Batch {
    let source = |i: usize| format!("{QUESTION}\n{}", rows()[i]["input"].as_str().unwrap());
    let sequences = (0..6).map(|i| {
        let mut ids = loaded.encoder.prompt(&[Message::new("user", source(i))], None).unwrap();
        let asked = ids.len();
        ids.extend(loaded.encoder.tokenizer().encode(rows()[i]["output"].as_str().unwrap(), true).unwrap().get_ids());
        let trained: Vec<bool> = (0..ids.len()).map(|i| i >= asked).collect();
        (ids, trained)
    });
    let sequences: Vec<_> = sequences.collect();
    Batch::new(sequences.iter().map(|(ids, trained)| (ids.as_slice(), trained.as_slice())))
}

#[test]
fn a_model_from_random_weights_learns_a_task_and_answers() {
    let home = Home::new();
    let base = home.base(90);
    let (loss, eval) = (base.values("loss"), base.values("eval_loss"));
    assert!(eval.last().unwrap() < &0.2 && loss[0] > 1.0, "{} {eval:?}", loss[0]);
    let loaded = home.load(&base.dir, None);
    let rows = rows();
    for num_beams in [1, 3] {
        let params = GenerateParams { do_sample: false, max_new_tokens: 8, num_beams, ..GenerateParams::default() };
        let right = rows.iter().take(20).filter(|row| {
            let source = format!("{QUESTION}\n{}", row["input"].as_str().unwrap());
            let (said, ended) = answer(&loaded, &source, &params);
            said == row["output"].as_str().unwrap() && ended == FinishReason::Stop
        });
        assert!(right.count() >= 18, "{num_beams} beams");
    }
    // Sampled answers are a function of their seed.
    let params =
        GenerateParams { temperature: 3.0, top_p: 1.0, top_k: 0, max_new_tokens: 6, ..GenerateParams::default() };
    let of = |seed| answer(&loaded, QUESTION, &GenerateParams { seed: Some(seed), ..params.clone() }).0;
    assert!(of(1) == of(1) && (2..20).any(|seed| of(seed) != of(1)));
}

#[test]
fn stopped_runs_of_every_kind_go_on_to_the_bit() {
    let home = Home::new();
    let base = home.base(10).dir;
    for (tuning, more) in [
        ("full", json!({"ema_decay": 0.9})),
        ("lora", json!({"lora_dropout": 0.1, "compute_type": "bf16"})),
        ("freeze", json!({"freeze_trainable_layers": 1})),
    ] {
        let config = || home.config(&base, tuning, 12, more.clone());
        let whole = home.train(&format!("whole-{tuning}"), config());
        let name = format!("broken-{tuning}");
        assert_eq!(home.job(JobKind::Train, &name, config(), Some(5)).outcome, Outcome::Stopped, "{tuning}");
        let mut again = config();
        again["resume_from_checkpoint"] = json!(true);
        let second = home.train(&name, again);
        let file = if tuning == "lora" { "adapter_model.safetensors" } else { "model.safetensors" };
        assert!(fs::read(whole.dir.join(file)).unwrap() == fs::read(second.dir.join(file)).unwrap(), "{tuning}");
        assert!(whole.values("eval_loss")[0] < whole.values("loss")[0], "{tuning}");
    }
}

#[test]
fn an_adapter_is_saved_as_peft_has_it_and_merged_it_says_the_same() {
    let home = Home::new();
    let base = home.base(10).dir;
    let trained = home.train("lora", home.config(&base, "lora", 40, json!({})));
    let config: Value = serde_json::from_slice(&fs::read(trained.dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["task_type"], "SEQ_2_SEQ_LM");
    let names = candle_core::safetensors::load(trained.dir.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    // Seven linears in a layer of the encoder, eleven in one of the decoder.
    assert_eq!(names.len(), 2 * (2 * 7 + 2 * 11));
    assert!(names.contains_key("base_model.model.decoder.block.1.layer.1.EncDecAttention.q.lora_A.weight"));
    let merged = home.merge(&base, &trained.dir);
    let losses = |loaded: Loaded| {
        let losses = loaded.model.losses(&batch(&loaded)).unwrap();
        Tensor::new(losses, &Device::Cpu).unwrap()
    };
    let distance =
        |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    let (plain, with) = (losses(home.load(&base, None)), losses(home.load(&base, Some(&trained.dir))));
    assert!(distance(&plain, &with) > 0.1 && distance(&with, &losses(home.load(&merged, None))) < 1e-4);
    // Another run goes on from where it ended.
    let more = json!({"adapter_name_or_path": trained.dir});
    let further = home.train("further", home.config(&base, "lora", 2, more));
    assert!(further.values("loss")[0] < 0.7 * trained.values("loss")[0]);
}

/// transformers and PEFT themselves load what is saved. Slow, so it waits for an environment that has them.
#[test]
fn transformers_and_peft_load_what_is_saved() {
    let Some(oracle) = Oracle::open("transformers_and_peft_load_what_is_saved") else { return };
    let home = Home::new();
    let base = home.base(10).dir;
    let adapter = home.train("lora", home.config(&base, "lora", 40, json!({}))).dir;
    let merged = home.merge(&base, &adapter);
    let source = |i: usize| format!("{QUESTION}\n{}", rows()[i]["input"].as_str().unwrap());
    let sources: Vec<String> = (0..6).map(source).collect();
    let targets: Vec<Value> = rows()[..6].iter().map(|row| row["output"].clone()).collect();
    let task = oracle.write_json("task.json", &json!([sources, targets]));
    let theirs = oracle.ask("encoder_decoder.py", &[&base, &adapter, &merged, &task]);
    let params = GenerateParams { do_sample: false, max_new_tokens: 8, num_beams: 3, ..GenerateParams::default() };
    for (name, loaded) in [
        ("plain", home.load(&base, None)),
        ("tuned", home.load(&base, Some(&adapter))),
        ("merged", home.load(&merged, None)),
    ] {
        let batch = batch(&loaded);
        let ids = [&theirs["sources"], &theirs["targets"]].map(|ids| ids.as_array().unwrap().clone());
        let ids: Vec<u32> = ids[0]
            .iter()
            .zip(&ids[1])
            .flat_map(|(a, b)| [a, b])
            .flat_map(|ids| ids.as_array().unwrap())
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        assert_eq!(batch.ids, ids);
        for (ours, theirs) in loaded.model.losses(&batch).unwrap().iter().zip(theirs[name].as_array().unwrap()) {
            assert!((ours - theirs.as_f64().unwrap()).abs() < 1e-4, "{name}: {ours} {theirs}");
        }
        for (source, ids) in sources.iter().zip(theirs["beams"].as_array().unwrap()).filter(|_| name == "tuned") {
            let ids: Vec<u32> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            let said = loaded.encoder.tokenizer().decode(&ids, true).unwrap();
            assert_eq!(answer(&loaded, source, &params).0, said);
        }
    }
}

#[test]
fn a_benchmark_of_methods_asks_for_the_likeliest_label() {
    let home = Home::new();
    let bench = MethodBench {
        model: home.shape().display().to_string(),
        data: home.path().join("datasets/task.json"),
        method: "full".into(),
        steps: 80,
        arguments: config_of(json!({
            "train_from_scratch": true, "learning_rate": 5e-3, "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1
        })),
    };
    let report = method(&bench, &places(home.path())).unwrap();
    assert_eq!((report.rows, report.labels), (12, 3));
    assert!(report.accuracy > report.majority && report.macro_f1 > 0.8, "{report:?}");
}

#[test]
fn plans_describe_it_and_refuse_what_it_has_no_use_for() {
    let home = Home::new();
    let scratch = json!({"train_from_scratch": true});
    let plan = prepare::plan(&config_of(home.config(&home.shape(), "full", 5, scratch)), &places(home.path())).unwrap();
    assert_eq!((plan.family.as_str(), plan.template.as_str(), plan.samples), ("mt5", "empty", 108));
    assert_eq!((plan.trainable, plan.truncated), (plan.parameters, 0));
    // One token of each answer, and the end.
    assert!(plan.trained_tokens >= 2 * 108 && plan.trained_tokens < plan.tokens / 3, "{plan:?}");
    let base = home.base(1).dir;
    assert_eq!(describe("base", "home", Ok(base.clone())).family, "mt5");
    let lora =
        prepare::plan(&config_of(home.config(&base, "lora", 5, json!({"cutoff_len": 12}))), &places(home.path()))
            .unwrap();
    assert_eq!((lora.trainable, lora.longest), (8 * (2 * 64 * 4 * 2 + 2 * 64 * 4 + 4 * 96 * 3), 12));
    assert!(lora.truncated > 0 && lora.targets.contains(&"wi_1".to_string()));
    for (more, field, hint) in [
        (json!({"stage": "dpo"}), "stage", "sft"),
        (json!({"finetuning_type": "prompt"}), "finetuning_type", "lora, freeze, full"),
        (json!({"quantization_bit": 4}), "quantization_bit", "Take it out"),
        (json!({"rope_scaling": "linear"}), "rope_scaling", "Take it out"),
        (json!({"neftune_noise_alpha": 5}), "neftune_noise_alpha", "Take it out"),
        (json!({"gradient_checkpointing": true}), "gradient_checkpointing", "Take it out"),
        (json!({"train_on_prompt": true}), "train_on_prompt", "Take it out"),
    ] {
        let problems = home.refused(home.config(&base, "lora", 5, more));
        let found = problems.iter().find(|problem| problem.field.as_deref() == Some(field));
        let found = found.unwrap_or_else(|| panic!("{field}: {problems:?}"));
        assert!(found.hint.contains(hint) && found.zh.is_some(), "{found:?}");
    }
}
