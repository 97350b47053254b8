//! Every stage with every tuning type on a tiny random model: what is trained moves, the loss falls, stopping and
//! resuming gives the same bits as an unbroken run, and the merged model speaks like the adapter on its base.

#![allow(clippy::unwrap_used)]

use api::{
    Event, JobKind, Outcome, RunConfig,
    data::Message,
    job::Spec,
    params::{ComputeType, ModelParams},
};
use candle_core::{DType, Device, Tensor};
use engine::{Places, adapters::ADAPTERS, files::ModelFiles, loaded::Loaded, run, stages::STAGES};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// A data folder with a tiny model (random weights, the starter's tokenizer) and a dataset.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self { dir };
        let (shape, data) = (home.path().join("models/shape"), home.path().join("datasets"));
        fs::create_dir_all(&shape).unwrap();
        fs::create_dir_all(&data).unwrap();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
            fs::copy(starter.join(name), shape.join(name)).unwrap();
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "dtype": "bfloat16",
            "initializer_range": 0.1, "rope_theta": 10000.0
        });
        fs::write(shape.join("config.json"), config.to_string()).unwrap();
        let rows: Vec<Value> = (0..12)
            .map(|i| json!({"instruction": format!("What is {i}?"), "input": "", "output": format!("It is number {i}.")}))
            .collect();
        fs::write(data.join("numbers.json"), Value::from(rows).to_string()).unwrap();
        fs::write(data.join("dataset_info.json"), r#"{"numbers": {"file_name": "numbers.json"}}"#).unwrap();
        let made = home.run(
            "base",
            json!({
                "model_name_or_path": shape, "train_from_scratch": true, "finetuning_type": "full", "stage": "pt",
                "dataset": "numbers", "max_steps": 1, "learning_rate": 0.0
            }),
        );
        assert_eq!(made.outcome, Outcome::Succeeded);
        home
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn places(&self) -> Places {
        Places { home: self.path().into(), hub_cache: self.path().join("hub") }
    }

    fn job(&self, kind: JobKind, name: &str, config: Value, stop_after: Option<u64>) -> Ended {
        let dir = self.path().join("runs").join(name);
        let spec = Spec { id: name.into(), kind, config: config_of(config), created_at: 0.0 };
        let (stop, mut events) = (AtomicBool::new(false), Vec::new());
        let mut sink = |event: Event| {
            if matches!(&event, Event::Metrics { step, .. } if Some(*step) == stop_after) {
                stop.store(true, Ordering::Relaxed);
            }
            events.push(event);
            Ok(())
        };
        let outcome = run::run(&spec, &dir, &self.places(), &mut sink, &stop).unwrap();
        Ended { dir, outcome, events }
    }

    fn load(&self, model: &Path, adapter: Option<&Path>) -> Loaded {
        let params = ModelParams {
            model_name_or_path: model.display().to_string(),
            adapter_name_or_path: adapter.map(|a| a.display().to_string()),
            ..ModelParams::default()
        };
        Loaded::open(&params, &self.places(), ComputeType::Fp32).unwrap()
    }

    fn run(&self, name: &str, config: Value) -> Ended {
        self.job(JobKind::Train, name, config, None)
    }

    /// 30 steps of a stage and a tuning type from the same random base.
    fn config(&self, stage: &str, adapter: &str) -> Value {
        let mut config = json!({
            "model_name_or_path": self.path().join("runs/base"), "stage": stage, "finetuning_type": adapter,
            "dataset": "numbers", "max_steps": 30, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
            "learning_rate": 0.02, "save_steps": 0, "packing": false, "lora_dropout": 0.1
        });
        // What a type needs to show itself in so few steps of so small a model.
        let own = match adapter {
            "ia3" => json!({"ia3_target": "all", "additional_target": "embed_tokens"}),
            "oft" => json!({"oft_block_size": 8, "learning_rate": 0.05}),
            "adalora" => json!({"init_r": 4, "target_r": 2, "lora_alpha": 32, "tinit": 3, "tfinal": 5}),
            "freeze" => json!({"freeze_trainable_layers": 1}),
            _ => json!({}),
        };
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        config
    }
}

struct Ended {
    dir: PathBuf,
    outcome: Outcome,
    events: Vec<Event>,
}

impl Ended {
    fn losses(&self) -> Vec<f64> {
        let loss = |e: &Event| match e {
            Event::Metrics { values, .. } => values.get("loss").copied(),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }

    /// The file of trained weights.
    fn weights(&self) -> Vec<u8> {
        let adapter = self.dir.join("adapter_model.safetensors");
        fs::read(if adapter.exists() { adapter } else { self.dir.join("model.safetensors") }).unwrap()
    }
}

fn config_of(value: Value) -> RunConfig {
    serde_json::from_value(value).unwrap()
}

/// Calls `check` with each stage and each tuning type of the registries.
fn for_each_pair(check: impl Fn(&Home, &str, &str)) {
    let home = Home::new();
    for stage in STAGES.iter().map(|s| s.card().name) {
        for adapter in ADAPTERS.iter().map(|a| a.card().name) {
            check(&home, &stage, &adapter);
        }
    }
}

#[test]
fn the_loss_falls_and_everything_trained_moves() {
    for_each_pair(|home, stage, kind| {
        let what = format!("{stage} with {kind}");
        let ended = home.run(&format!("{stage}-{kind}"), home.config(stage, kind));
        assert_eq!(ended.outcome, Outcome::Succeeded, "{what}: {:?}", ended.events.last());
        let losses = ended.losses();
        let mean = |range: &[f64]| range.iter().sum::<f64>() / range.len() as f64;
        assert_eq!(losses.len(), 30);
        assert!(mean(&losses[25..]) < 0.9 * mean(&losses[..5]), "{what}: {losses:?}");

        let values = |path: &Path| -> BTreeMap<String, Tensor> {
            let stored = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
            stored.into_iter().map(|(name, value)| (name, value.to_dtype(DType::F32).unwrap())).collect()
        };
        let base = values(&home.path().join("runs/base/model.safetensors"));
        let adapter = ended.dir.join("adapter_model.safetensors");
        let moved = |a: &Tensor, b: &Tensor| {
            a.dims() != b.dims() || (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.0
        };
        if adapter.exists() {
            let mut still = home.config(stage, kind);
            still["learning_rate"] = json!(0.0);
            still["max_steps"] = json!(10);
            let begun = home.run(&format!("begun-{stage}-{kind}"), still);
            let begun = values(&begun.dir.join("adapter_model.safetensors"));
            for (name, value) in values(&adapter) {
                assert!(moved(&value, &begun[&name]), "{what}: {name} was never trained");
            }
        } else {
            for (name, value) in values(&ended.dir.join("model.safetensors")) {
                let trained = kind != "freeze" || name.contains("layers.1.");
                assert_eq!(moved(&value, &base[&name]), trained, "{what}: {name}");
            }
        }
    });
}

#[test]
fn stopping_and_resuming_changes_no_bit() {
    for_each_pair(|home, stage, adapter| {
        let what = format!("{stage} with {adapter}");
        let whole = home.run(&format!("whole-{stage}-{adapter}"), home.config(stage, adapter));
        let name = format!("broken-{stage}-{adapter}");
        let first = home.job(JobKind::Train, &name, home.config(stage, adapter), Some(13));
        assert_eq!(first.outcome, Outcome::Stopped, "{what}");
        let mut config = home.config(stage, adapter);
        config["resume_from_checkpoint"] = json!(true);
        let second = home.run(&name, config);
        assert_eq!(second.outcome, Outcome::Succeeded, "{what}: {:?}", second.events.last());
        let joined: Vec<u64> = first.losses().into_iter().chain(second.losses()).map(f64::to_bits).collect();
        assert_eq!(joined, whole.losses().into_iter().map(f64::to_bits).collect::<Vec<_>>(), "{what}");
        assert!(second.weights() == whole.weights(), "{what}: the weights differ");
    });
}

/// New tokens get rows and are trained; adapter, exported model and fully tuned model all know them.
#[test]
fn added_tokens_are_trained_and_travel_with_what_was_trained() {
    let home = Home::new();
    let base = home.path().join("runs/base");
    let rows =
        json!([{"instruction": "Which tool?", "output": "<tool>"}, {"instruction": "And then?", "output": "<end>"}]);
    fs::write(home.path().join("datasets/numbers.json"), rows.to_string()).unwrap();
    let of = |adapter: &str| {
        let mut config = home.config("sft", adapter);
        config["add_special_tokens"] = json!("<tool>, <end>");
        config["neftune_noise_alpha"] = json!(1.0);
        config["max_steps"] = json!(60);
        home.run(adapter, config)
    };
    let said = |loaded: &Loaded| {
        let tool = loaded.encoder.tokenizer().token_to_id("<tool>").unwrap();
        let prompt = loaded.encoder.prompt(&[Message::new("user", "Which tool?")], None).unwrap();
        let logits = loaded.model.logits(&prompt, &[prompt.len()]).unwrap().get(prompt.len() - 1).unwrap();
        assert_eq!(logits.argmax(0).unwrap().to_scalar::<u32>().unwrap(), tool);
        assert_eq!(logits.dims(), [4160]);
        logits
    };
    let lora = of("lora");
    assert_eq!(lora.outcome, Outcome::Succeeded, "{:?}", lora.events.last());
    let grown = lora.events.iter().any(|e| matches!(e, Event::Note { problem } if problem.code == "vocabulary_grows"));
    let adapter: Value = serde_json::from_slice(&fs::read(lora.dir.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((grown, &adapter["modules_to_save"]), (true, &json!(["embed_tokens", "lm_head"])));
    let with = said(&home.load(&base, Some(&lora.dir)));
    let merged = home.path().join("exports/merged");
    let config = json!({"model_name_or_path": base, "adapter_name_or_path": lora.dir, "export_dir": merged, "export_dtype": "float32"});
    assert_eq!(home.job(JobKind::Export, "export", config, None).outcome, Outcome::Succeeded);
    let again = said(&home.load(&merged, None));
    let distance = (with - again).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(distance < 1e-4, "merged is {distance} off");
    let full = of("full");
    assert_eq!(full.outcome, Outcome::Succeeded, "{:?}", full.events.last());
    said(&home.load(&full.dir, None));
    // Going on from the adapter begins with its rows.
    let mut config = home.config("sft", "lora");
    config["adapter_name_or_path"] = json!(lora.dir);
    let further = home.run("further", config);
    assert_eq!(further.outcome, Outcome::Succeeded, "{:?}", further.events.last());
    assert!(further.losses()[0] < 0.3 * lora.losses()[0], "{:?}", further.losses());
}

/// For every type whose result is a change of weights; the others refuse and say why.
#[test]
fn the_merged_model_speaks_like_the_adapter_on_its_base() {
    let home = Home::new();
    let base = home.path().join("runs/base");
    let ids: Vec<u32> = (5..25).collect();
    let logits = |loaded: Loaded| loaded.model.logits(&ids, &[ids.len()]).unwrap();
    let distance =
        |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let without = logits(home.load(&base, None));
    for kind in ADAPTERS.iter().filter(|a| a.peft_type().is_some()).map(|a| a.card().name) {
        let trained = home.run(&kind, home.config("sft", &kind));
        assert_eq!(trained.outcome, Outcome::Succeeded, "{kind}: {:?}", trained.events.last());
        let merged = home.path().join("exports").join(&kind);
        let config = json!({"model_name_or_path": base, "adapter_name_or_path": trained.dir, "export_dir": merged, "export_size": 0.0001, "export_dtype": "float32"});
        let ended = home.job(JobKind::Export, &format!("export-{kind}"), config, None);
        let with = logits(home.load(&base, Some(&trained.dir)));
        assert!(distance(&with, &without) > 0.1, "{kind}: the adapter does nothing");
        if engine::adapters::read(&trained.dir).unwrap().merges().is_err() {
            let Some(Event::Finished { problem: Some(problem), .. }) = ended.events.last() else { panic!("{kind}") };
            assert!(!problem.hint.is_empty(), "{kind}");
            continue;
        }
        assert_eq!(ended.outcome, Outcome::Succeeded, "{kind}: {:?}", ended.events.last());
        assert!(ModelFiles::open(&merged).is_ok() && merged.join("model.safetensors.index.json").exists());
        let again = logits(home.load(&merged, None));
        assert!(distance(&with, &again) < 2e-4, "{kind}: merged is {} off", distance(&with, &again));
        let second = home.job(
            JobKind::Export,
            &format!("again-{kind}"),
            json!({"model_name_or_path": base, "adapter_name_or_path": trained.dir, "export_dir": merged}),
            None,
        );
        assert_eq!(second.outcome, Outcome::Failed);
    }
}

/// Bad input ends in a sentence that names the thing; nothing panics.
#[test]
fn bad_input_is_named() {
    let home = Home::new();
    let problem = |change: &dyn Fn(&mut Value)| {
        let mut config = home.config("sft", "lora");
        change(&mut config);
        match engine::prepare::plan(&config_of(config), &home.places()) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.into_problems(),
        }
    };
    let check = |change: &dyn Fn(&mut Value), code: &str, field: &str, part: &str| {
        let problems = problem(change);
        let found = problems.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("{code}: {problems:?}"));
        assert!(found.message.contains(part), "{}", found.message);
        // Where the bounds stand in the message, they are the next step.
        assert!(code == "bad_value" || !found.hint.is_empty());
        assert!(found.zh.as_ref().is_some_and(|zh| !zh.message.is_empty()), "{found:?}");
        if !field.is_empty() {
            assert_eq!(found.field.as_deref(), Some(field));
        }
    };
    check(&|c| c["lora_rnk"] = json!(8), "unknown_key", "lora_rnk", "lora_rnk");
    check(&|c| c["lora_rank"] = json!(0), "bad_value", "lora_rank", "must be 1 to 1024");
    check(&|c| c["stage"] = json!("sftt"), "unknown_name", "stage", "sftt");
    check(&|c| c["dataset"] = json!("nmbers"), "unknown_dataset", "dataset", "nmbers");
    check(&|c| c["lora_target"] = json!("q_porj"), "no_target", "lora_target", "no linear");
    check(&|c| c["template"] = json!("chatlm"), "unknown_template", "template", "chatlm");

    // Several at once, each with its field.
    let both = problem(&|c| {
        c["learning_rate"] = json!(-1);
        c["stage"] = json!("x");
    });
    assert_eq!(both.len(), 2, "{both:?}");

    // An adapter for another model.
    let trained = home.run("adapter", home.config("sft", "lora"));
    let shape = home.path().join("models/shape/config.json");
    let wider = fs::read_to_string(&shape).unwrap().replace("\"hidden_size\":32", "\"hidden_size\":64");
    fs::write(&shape, wider).unwrap();
    let ended = home.run(
        "other",
        json!({
            "model_name_or_path": home.path().join("models/shape"), "train_from_scratch": true, "dataset": "numbers",
            "adapter_name_or_path": trained.dir
        }),
    );
    let Some(Event::Finished { problem: Some(problem), .. }) = ended.events.last() else { panic!("accepted") };
    assert_eq!(problem.code, "adapter_for_another_model");
}
