//! Every stage with every tuning type on a tiny random model: what is trained moves, the loss falls, stopping and
//! resuming gives the same bits as an unbroken run, and the merged model speaks like the adapter on its base.

#![allow(clippy::unwrap_used)]

mod common;
mod rollouts;

use api::{Catalog, Event, JobKind, Outcome, RunConfig, data::Message, params::GenerateParams, rollout::Rollout};
use candle_core::{DType, Device, Tensor};
use common::jobs::{self, Ended, config_of, places};
use engine::{
    adapters::ADAPTERS,
    catalog::catalog,
    data::Needs,
    files::ModelFiles,
    loaded::Loaded,
    model::Cache,
    run,
    stages::{self, STAGES},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, sync::atomic::AtomicBool};

/// A data folder with a tiny model (random weights, the starter's tokenizer) and a dataset.
struct Home {
    dir: tempfile::TempDir,
    catalog: Catalog,
}

impl Home {
    fn new() -> Self {
        Self::of(json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "dtype": "bfloat16",
            "initializer_range": 0.1, "rope_theta": 10000.0
        }))
    }

    fn encoder_decoder() -> Self {
        Self::of(json!({
            "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "vocab_size": 4096, "d_model": 32,
            "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": false, "dtype": "bfloat16", "eos_token_id": 2, "decoder_start_token_id": 0
        }))
    }

    /// With a model of this configuration.
    fn of(config: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self { dir, catalog: catalog() };
        let (shape, data) = (home.path().join("models/shape"), home.path().join("datasets"));
        fs::create_dir_all(&shape).unwrap();
        fs::create_dir_all(&data).unwrap();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
            fs::copy(starter.join(name), shape.join(name)).unwrap();
        }
        fs::write(shape.join("config.json"), config.to_string()).unwrap();
        let rows: Vec<Value> = (0..12)
            .map(|i| json!({"instruction": format!("What is {i}?"), "input": "", "output": format!("It is number {i}.")}))
            .collect();
        fs::write(data.join("numbers.json"), Value::from(rows).to_string()).unwrap();
        let pairs: Vec<Value> = (0..12)
            .map(|i| json!({"instruction": format!("What is {i}?"), "chosen": format!("It is number {i}."), "rejected": "Go away, you!"}))
            .collect();
        fs::write(data.join("pairs.json"), Value::from(pairs).to_string()).unwrap();
        let marked = |i: usize| if i.is_multiple_of(2) { format!("It is number {i}.") } else { "Go away, you!".into() };
        let marked: Vec<Value> = (0..12)
            .map(|i| json!({"instruction": format!("What is {i}?"), "output": marked(i), "label": i % 2 == 0}))
            .collect();
        fs::write(data.join("marked.json"), Value::from(marked).to_string()).unwrap();
        let texts: Vec<Value> =
            (0..6).map(|i| json!({"text": format!("Number {i} comes before {}.", i + 1)})).collect();
        fs::write(data.join("texts.json"), Value::from(texts).to_string()).unwrap();
        let info = json!({
            "texts": {"file_name": "texts.json", "columns": {"prompt": "text"}},
            "numbers": {"file_name": "numbers.json"},
            "pairs": {"file_name": "pairs.json", "ranking": true, "columns": {"chosen": "chosen", "rejected": "rejected"}},
            "marked": {"file_name": "marked.json", "columns": {"response": "output", "kto_tag": "label"}}
        });
        fs::write(data.join("dataset_info.json"), info.to_string()).unwrap();
        let made = home.run(
            "base",
            json!({
                "model_name_or_path": shape, "train_from_scratch": true, "finetuning_type": "full", "stage": "sft",
                "dataset": "numbers", "max_steps": 1, "learning_rate": 0.0
            }),
        );
        assert_eq!(made.outcome, Outcome::Succeeded);
        home
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn job(&self, kind: JobKind, name: &str, config: Value, stop_after: Option<u64>) -> Ended {
        let (dir, config) = (self.path().join("runs").join(name), config_of(config));
        let ended = jobs::job(self.path(), &dir, kind, config.clone(), stop_after);
        self.every_metric_is_known(&config, &ended);
        ended
    }

    /// What the interface calls it stands in the catalog.
    fn every_metric_is_known(&self, config: &RunConfig, ended: &Ended) {
        let stage = config.text("stage").unwrap_or("sft");
        for name in ended.steps().flat_map(BTreeMap::keys) {
            assert!(self.catalog.metric(stage, name).is_some(), "{stage} tells of {name}, which is in no words");
        }
    }

    fn load(&self, model: &Path, adapter: Option<&Path>) -> Loaded {
        jobs::load(self.path(), model, adapter)
    }

    fn run(&self, name: &str, config: Value) -> Ended {
        self.job(JobKind::Train, name, config, None)
    }

    /// 30 steps of a stage and a tuning type from the same random base; 4 where the stage samples its answers itself.
    fn config(&self, stage: &str, adapter: &str) -> Value {
        // A few vectors before the text have to move far.
        let rate = if adapter == "prompt" { 0.1 } else { 0.02 };
        let mut config = json!({
            "model_name_or_path": self.path().join("runs/base"), "stage": stage, "finetuning_type": adapter,
            "dataset": dataset(stage), "max_steps": 30, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
            "learning_rate": rate, "save_steps": 0, "packing": false, "lora_dropout": 0.1, "num_virtual_tokens": 40
        });
        if samples(stage) {
            let more = json!({"max_steps": 4, "max_new_tokens": 5, "reward_funcs": "regex", "reward_regex": "e"});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            if stage == "grpo" {
                let more = json!({"num_generations": 3, "num_iterations": 2, "beta": 0.1, "dynamic_sample": true});
                config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            }
        }
        if stage == "distill" {
            // Of itself it has little to learn but the rows.
            config["teacher_model_name_or_path"] = json!(self.path().join("runs/base"));
            config["distill_alpha"] = json!(0.2);
        }
        // What a type needs to show itself in so few steps of so small a model.
        let own = match adapter {
            "ia3" => json!({"ia3_target": "all", "additional_target": "embed_tokens"}),
            "oft" => json!({"oft_block_size": 8, "learning_rate": 0.05}),
            "adalora" if samples(stage) => json!({"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1}),
            "adalora" => json!({"init_r": 4, "target_r": 2, "lora_alpha": 32, "tinit": 3, "tfinal": 5}),
            "freeze" => json!({"freeze_trainable_layers": 1}),
            _ => json!({}),
        };
        config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        config
    }
}

/// A dataset that the stage learns from.
fn dataset(stage: &str) -> &'static str {
    match stages::stage(stage).unwrap().needs() {
        Needs::Instructions | Needs::Text | Needs::Prompts => "numbers",
        Needs::Mixed => "numbers,texts",
        Needs::Preferences => "pairs",
        Needs::Kto => "marked",
    }
}

/// Whether a stage learns from answers that it samples itself, for which there is no loss that falls.
fn samples(stage: &str) -> bool {
    stages::stage(stage).unwrap().needs() == Needs::Prompts
}

/// What the loss falls to in 30 steps, as a share of the first. Beside weights that are random and stay as they are,
/// little can be learned.
fn share(adapter: &str) -> f64 {
    if ["prompt", "p_tuning", "prefix", "adapter"].contains(&adapter) { 0.97 } else { 0.85 }
}

/// Calls `check` with each stage and each tuning type of the registries, on a decoder and where they take it on an
/// encoder-decoder.
fn for_each_pair(check: impl Fn(&Home, &str, &str)) {
    let (decoder, encoder_decoder) = (Home::new(), Home::encoder_decoder());
    for stage in STAGES {
        for adapter in ADAPTERS {
            let (name, kind) = (stage.card().name, adapter.card().name);
            check(&decoder, &name, &kind);
            if stage.trains_encoder_decoders() && adapter.tunes_encoder_decoders() {
                check(&encoder_decoder, &name, &kind);
            }
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
        assert_eq!(losses.len(), if samples(stage) { 4 } else { 30 });
        assert!(samples(stage) || mean(&losses[25..]) < share(kind) * losses[0], "{what}: {losses:?}");

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
            let after = values(&adapter);
            // A step whose answers are all worth the same teaches nothing, and some parts only learn from the second on.
            if samples(stage) {
                assert!(after.iter().any(|(name, value)| moved(value, &begun[name])), "{what}: nothing was trained");
                return;
            }
            for (name, value) in after {
                assert!(moved(&value, &begun[&name]), "{what}: {name} was never trained");
            }
        } else {
            let after = values(&ended.dir.join("model.safetensors"));
            if samples(stage) {
                assert!(after.iter().any(|(name, value)| moved(value, &base[name])), "{what}: nothing was trained");
                return;
            }
            for (name, value) in after {
                let trained = kind != "freeze" || name.contains("layers.1.") || name.contains("block.1.");
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
        let first =
            home.job(JobKind::Train, &name, home.config(stage, adapter), Some(if samples(stage) { 2 } else { 13 }));
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

/// Before anything was learned the policy is its own reference, also where the base is kept in few bits.
#[test]
fn the_reference_is_the_policy_that_the_run_began_with() {
    let home = Home::new();
    let check = |name: &str, adapter: &str, more: Value| {
        let mut config = home.config("dpo", adapter);
        let plain = json!({
            "quantization_bit": 4, "max_steps": 10, "learning_rate": 0.0, "lora_dropout": 0.0, "compute_type": "fp32"
        });
        for part in [plain, more] {
            config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        let ended = home.run(name, config);
        match ended.losses().as_slice() {
            [loss, ..] => assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{name}: {loss}"),
            [] => {
                let Some(Event::Finished { problem: Some(problem), .. }) = ended.events.last() else {
                    panic!("{name}")
                };
                assert_eq!(problem.code, "quantised_and_trained", "{name}: {problem}");
            }
        }
    };
    for adapter in ADAPTERS.iter().map(|a| a.card().name) {
        check(&adapter, &adapter, json!({}));
    }
    check("norms", "lora", json!({"additional_target": "norm"}));
}

/// A reward model on stacked adapters goes on from the last one's value head, and scores with all of them below it.
#[test]
fn a_reward_model_may_stand_on_other_adapters() {
    let home = Home::new();
    let exact = |stage: &str| {
        let mut config = home.config(stage, "lora");
        config["compute_type"] = json!("fp32");
        config
    };
    let first = home.run("first", exact("rm"));
    let mut config = exact("rm");
    config["adapter_name_or_path"] = json!(first.dir);
    config["create_new_adapter"] = json!(true);
    config["learning_rate"] = json!(0.0);
    let second = home.run("second", config);
    let head = |ended: &Ended| fs::read(ended.dir.join("value_head.safetensors")).unwrap();
    assert!(head(&first) == head(&second));

    let mut config = exact("ppo");
    config["reward_model"] = json!(format!("{},{}", first.dir.display(), second.dir.display()));
    config["reward_funcs"] = Value::Null;
    config["learning_rate"] = json!(0.0);
    let stacked = home.run("stacked", config.clone());
    // The second adapter changes nothing, so the first alone gives the same rewards, but for its merging into bf16; the
    // second alone doesn't.
    config["reward_model"] = json!(first.dir);
    let alone = home.run("alone", config.clone());
    config["reward_model"] = json!(second.dir);
    let wrong = home.run("wrong", config);
    let rewards = |ended: &Ended| -> Vec<f64> {
        let reward = |event: &Event| match event {
            Event::Metrics { values, .. } => values.get("reward").copied(),
            _ => None,
        };
        ended.events.iter().filter_map(reward).collect()
    };
    let [stacked, alone, wrong] = [stacked, alone, wrong].map(|ended| rewards(&ended));
    let apart = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(stacked.len() == 4 && alone.len() == 4 && wrong.len() == 4);
    assert!(apart(&stacked, &alone) < 0.03 && apart(&wrong, &alone) > 0.3, "{stacked:?} {alone:?} {wrong:?}");
}

/// A policy's answers, rewards and metrics are written down by step; rows without an answer do where none is compared with.
#[test]
fn what_a_policy_sampled_is_written_down() {
    let home = Home::new();
    let rows = json!([{"text": "Name a bird."}, {"text": "Name a fish."}, {"text": "Name a tree."}]);
    fs::write(home.path().join("datasets/numbers.json"), rows.to_string()).unwrap();
    let info = json!({"numbers": {"file_name": "numbers.json", "columns": {"prompt": "text"}}});
    fs::write(home.path().join("datasets/dataset_info.json"), info.to_string()).unwrap();
    let mut config = home.config("grpo", "lora");
    let ended = home.run("policy", config.clone());
    assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
    let text = fs::read_to_string(ended.dir.join("rollouts.jsonl")).unwrap();
    let rollouts: Vec<Rollout> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Three rows make two steps of an epoch, with two prompts and with one.
    assert_eq!(rollouts.iter().map(|r| r.step).collect::<Vec<_>>(), [1, 1, 2, 3, 3, 4]);
    for rollout in &rollouts {
        assert!(rollout.prompt.contains("Name a") && rollout.reference.is_none() && rollout.samples.len() == 3);
        let total: f64 = rollout.samples.iter().map(|sample| sample.advantage).sum();
        assert!(total.abs() < 1e-3, "{rollout:?}");
        for sample in &rollout.samples {
            assert_eq!(sample.reward, f64::from(u8::from(sample.text.contains('e'))), "{}", sample.text);
            // Groups that are all alike are not learned from.
            assert!(
                (sample.entropy > 0.0 || sample.advantage == 0.0)
                    && sample.tokens <= 5
                    && sample.rewards["regex"] == sample.reward
            );
        }
    }
    let metrics = ended.events.iter().filter_map(|event| match event {
        Event::Metrics { step, values, .. } => Some((*step, values)),
        _ => None,
    });
    for (step, values) in metrics {
        let of: Vec<f64> =
            rollouts.iter().filter(|r| r.step == step).flat_map(|r| &r.samples).map(|s| s.reward).collect();
        assert!((values["reward"] - of.iter().sum::<f64>() / of.len() as f64).abs() < 1e-9);
        for name in ["completion_length", "generation_share", "rollout_tokens_per_s", "tokens_per_s"] {
            assert!(values[name].is_finite() && values[name] >= 0.0, "{name}");
        }
        for name in ["kl", "entropy", "clip_ratio"].into_iter().filter(|_| values["alike_share"] < 1.0) {
            assert!(values[name].is_finite() && values[name] >= 0.0, "{name}");
        }
    }
    config["reward_funcs"] = json!("exact");
    let refused = home.run("refused", config);
    let Some(Event::Finished { problem: Some(problem), .. }) = refused.events.last() else { panic!("accepted") };
    assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("no_reference", Some("reward_funcs")));
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
        let logits =
            loaded.model.decoder().unwrap().logits(&prompt, &[prompt.len()]).unwrap().get(prompt.len() - 1).unwrap();
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
    let logits = |loaded: Loaded| loaded.model.decoder().unwrap().logits(&ids, &[ids.len()]).unwrap();
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

/// Chat with it: what the cache gives is what a whole pass gives. A merge is refused with the way to use it.
#[test]
fn what_stands_beside_the_weights_is_used_and_not_merged() {
    let home = Home::new();
    let base = home.path().join("runs/base");
    for adapter in ["prompt", "p_tuning", "prefix", "adapter"] {
        let trained = home.run(adapter, home.config("sft", adapter));
        let config = json!({"model_name_or_path": base, "adapter_name_or_path": trained.dir});
        let merged = home.job(JobKind::Export, &format!("export-{adapter}"), config, None);
        let Some(Event::Finished { problem: Some(problem), .. }) = merged.events.last() else {
            panic!("merged {adapter}")
        };
        assert_eq!(problem.code, "not_mergeable");
        assert!(problem.hint.contains("adapter_name_or_path"), "{problem:?}");

        let (with, without) = (home.load(&base, Some(&trained.dir)), home.load(&base, None));
        let prompt = with.encoder.prompt(&[Message::new("user", "What is 7?")], None).unwrap();
        let last = |loaded: &Loaded| {
            loaded.model.decoder().unwrap().logits(&prompt, &[prompt.len()]).unwrap().get(prompt.len() - 1).unwrap()
        };
        let model = with.model.decoder().unwrap();
        let mut cache = Cache::new(model.config.layers);
        let (first, second) = prompt.split_at(3);
        model.step(first, &mut cache).unwrap();
        let step = model.step(second, &mut cache).unwrap();
        let step = Tensor::new(step, &Device::Cpu).unwrap();
        let distance =
            |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(distance(&step, &last(&with)) < 1e-4, "{adapter}");
        assert!(distance(&step, &last(&without)) > 0.1, "{adapter} does nothing");
        let params = GenerateParams { max_new_tokens: 300, do_sample: false, ..GenerateParams::default() };
        let request = with.answer(&[Message::new("user", "What is 7?")], None, params).unwrap();
        let said = with.engine().unwrap().answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0;
        let room = 256 - if adapter == "adapter" { 0 } else { 10 };
        assert!(prompt.len() + said[0].ids.len() <= room, "{adapter}");
    }
}

/// LoRA on a base of 4 and of 8 bits: it learns about as well as on the dense one, resumes to the bit, and its adapter
/// merges into the dense files.
#[test]
fn a_quantised_base_is_as_good_to_learn_on() {
    let home = Home::new();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let dense = home.run("dense", home.config("sft", "lora"));
    for bits in [4, 8] {
        let config = |resume: bool| {
            let mut config = home.config("sft", "lora");
            config["quantization_bit"] = json!(bits);
            config["resume_from_checkpoint"] = json!(resume);
            config
        };
        let whole = home.run(&format!("whole-{bits}"), config(false));
        assert_eq!(whole.outcome, Outcome::Succeeded, "{:?}", whole.events.last());
        let (ours, theirs) = (mean(&whole.losses()[25..]), mean(&dense.losses()[25..]));
        assert!(ours < 0.9 * mean(&whole.losses()[..5]) && ours < 1.05 * theirs, "{bits} bits: {ours}, dense {theirs}");
        let name = format!("broken-{bits}");
        assert_eq!(home.job(JobKind::Train, &name, config(false), Some(13)).outcome, Outcome::Stopped);
        assert!(home.run(&name, config(true)).weights() == whole.weights(), "{bits} bits: the weights differ");

        let (base, merged) = (home.path().join("runs/base"), home.path().join(format!("exports/{bits}")));
        let export = json!({"model_name_or_path": base, "adapter_name_or_path": whole.dir, "export_dir": merged, "export_dtype": "float32"});
        assert_eq!(home.job(JobKind::Export, &format!("export-{bits}"), export, None).outcome, Outcome::Succeeded);
        let ids: Vec<u32> = (5..25).collect();
        let logits = |loaded: Loaded| loaded.model.decoder().unwrap().logits(&ids, &[ids.len()]).unwrap();
        let (with, merged) = (logits(home.load(&base, Some(&whole.dir))), logits(home.load(&merged, None)));
        let off = (with - merged).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-4, "{bits} bits: merged is {off} off");
    }
}

/// Stages that hold one policy against another drop nothing out, whatever the tuning says.
#[test]
fn policies_are_compared_without_dropout() {
    let home = Home::new();
    for (stage, drops) in [("sft", true), ("dpo", false), ("kto", false), ("ppo", false), ("grpo", false)] {
        let [with, without] = [0.5, 0.0].map(|share| {
            let mut config = home.config(stage, "lora");
            (config["lora_dropout"], config["max_steps"]) = (json!(share), json!(2));
            let ended = home.run(&format!("{stage}-{share}"), config);
            assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
            ended.weights()
        });
        assert_eq!(with != without, drops, "{stage}");
    }
}

/// The reference is the policy that a run starts from, with the adapter that it goes on from; `ref_model` names another.
#[test]
fn the_reference_is_what_a_run_starts_from_or_what_is_named() {
    let home = Home::new();
    let (learned, base) = (home.run("learned", home.config("sft", "lora")).dir, home.path().join("runs/base"));
    for (name, more, away) in [
        ("own", json!({}), false),
        ("quantised", json!({"quantization_bit": 4}), false),
        ("new", json!({"create_new_adapter": true}), false),
        ("base", json!({"ref_model": base}), true),
        ("adapter", json!({"ref_model": base, "ref_model_adapters": learned}), false),
    ] {
        let mut config = home.config("dpo", "lora");
        (config["adapter_name_or_path"], config["max_steps"]) = (json!(learned), json!(1));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let ended = home.run(name, config);
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        let values = ended.events.iter().find_map(|event| match event {
            Event::Metrics { values, .. } => Some(values.clone()),
            _ => None,
        });
        // Before the first update the policy is what it was.
        let values = values.unwrap();
        assert_eq!(values["rewards/chosen"].abs() > 1e-3, away, "{name}: {values:?}");
        assert_eq!((values["loss"] - std::f64::consts::LN_2).abs() > 1e-3, away, "{name}: {values:?}");
    }
}

/// AdaLoRA's schedule counts updates of the optimizer, of which a step of GRPO makes several.
#[test]
fn ranks_shrink_with_the_updates_of_a_step() {
    let home = Home::new();
    let mut config = home.config("grpo", "adalora");
    // Six updates; in steps the schedule would have no room.
    (config["max_steps"], config["tinit"], config["tfinal"]) = (json!(3), json!(1), json!(2));
    let ended = home.run("ranks", config);
    assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
    let saved = candle_core::safetensors::load_buffer(&ended.weights(), &Device::Cpu).unwrap();
    let ranks: Vec<usize> =
        saved.iter().filter(|(name, _)| name.ends_with(".lora_E")).map(|(_, sizes)| sizes.elem_count()).collect();
    // Seven linears in each of two layers, with a mean rank of two in the end.
    let sum = ranks.iter().sum::<usize>();
    assert!((1..=28).contains(&sum), "{ranks:?}");
}

/// Every optimizer: the loss falls, and stopping and resuming changes no bit. The average of what was trained is what is
/// saved at the end.
#[test]
fn every_optimizer_learns_and_resumes() {
    let home = Home::new();
    for optim in ["adamw_8bit", "sgd", "adafactor", "lion_32bit", "muon", "galore_adamw", "apollo_adamw", "badam"] {
        let whole = matches!(optim, "galore_adamw" | "apollo_adamw" | "badam");
        let config = |resume: bool| {
            let mut config = home.config("sft", if whole { "full" } else { "lora" });
            config["optim"] = json!(optim);
            config["max_steps"] = json!(16);
            config["learning_rate"] = json!(match optim {
                "sgd" => 0.5,
                "lion_32bit" => 0.005,
                _ => 0.02,
            });
            config["galore_update_interval"] = json!(5);
            config["apollo_update_interval"] = json!(5);
            config["badam_switch_interval"] = json!(5);
            config["ema_decay"] = json!(if optim == "muon" { 0.9 } else { 0.0 });
            config["val_size"] = json!(0.2);
            config["resume_from_checkpoint"] = json!(resume);
            config
        };
        let unbroken = home.run(&format!("whole-{optim}"), config(false));
        assert_eq!(unbroken.outcome, Outcome::Succeeded, "{optim}: {:?}", unbroken.events.last());
        let losses = unbroken.losses();
        assert!(losses[14] + losses[15] < 0.97 * (losses[0] + losses[1]), "{optim}: {losses:?}");
        let name = format!("broken-{optim}");
        assert_eq!(home.job(JobKind::Train, &name, config(false), Some(7)).outcome, Outcome::Stopped);
        let resumed = home.run(&name, config(true));
        assert_eq!(resumed.outcome, Outcome::Succeeded, "{optim}: {:?}", resumed.events.last());
        assert!(resumed.weights() == unbroken.weights(), "{optim}: the weights differ");
        if optim == "muon" {
            let last = fs::read(unbroken.dir.join("checkpoint-16/adapter_model.safetensors")).unwrap();
            assert!(last != unbroken.weights(), "the average was not saved");
        }
    }
}

/// A run that diverges stops with its cause and leaves a checkpoint of the last good step.
#[test]
fn a_run_that_diverges_keeps_its_last_good_step() {
    let home = Home::new();
    for optim in ["adamw_torch", "sgd", "adamw_8bit", "muon"] {
        let mut config = home.config("sft", "full");
        config["optim"] = json!(optim);
        config["learning_rate"] = json!(10.0);
        config["max_grad_norm"] = json!(0.0);
        config["adam_epsilon"] = json!(0.0);
        config["weight_decay"] = json!(1.0);
        config["max_steps"] = json!(400);
        let ended = home.run(&format!("diverging-{optim}"), config);
        let Some(Event::Finished { problem, .. }) = ended.events.last() else { panic!("no end") };
        if let Some(problem) = problem {
            assert_eq!(
                (problem.code.as_str(), problem.field.as_deref()),
                ("diverged", Some("learning_rate")),
                "{optim}"
            );
            let steps = ended.losses().len();
            assert!(ended.losses().iter().all(|loss| loss.is_finite()));
            if steps > 0 {
                let kept = candle_core::safetensors::load(
                    ended.dir.join(format!("checkpoint-{steps}/model.safetensors")),
                    &Device::Cpu,
                );
                for (name, value) in kept.unwrap() {
                    let sum = (value.to_dtype(DType::F32).unwrap() * 0.0).unwrap().sum_all().unwrap();
                    assert_eq!(sum.to_scalar::<f32>().unwrap(), 0.0, "{optim}: {name}");
                }
            }
        }
        assert!(problem.is_some() || optim != "sgd", "{optim} went on: {:?}", ended.losses().last());
    }
}

/// Bad input ends in a sentence that names the thing; nothing panics.
#[test]
fn bad_input_is_named() {
    let home = Home::new();
    let problem = |change: &dyn Fn(&mut Value)| {
        let mut config = home.config("sft", "lora");
        change(&mut config);
        match engine::prepare::plan(&config_of(config), &places(home.path())) {
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
    check(&|c| c["stage"] = json!("dpo"), "dataset_kind_mismatch", "dataset", "numbers holds questions with answers");
    let marked = |c: &mut Value| {
        c["stage"] = json!("dpo");
        c["dataset"] = json!("marked");
    };
    check(&marked, "dataset_kind_mismatch", "dataset", "answers marked good or bad");
    let told = problem(&marked);
    assert!(told[0].hint.contains("a stage that takes it: kto"), "{told:?}");
    let pairs = |key: &'static str, value: Value| {
        move |c: &mut Value| {
            (c["stage"], c["dataset"], c[key]) = (json!("dpo"), json!("pairs"), value.clone());
        }
    };
    check(&pairs("packing", json!(true)), "packing_pairs", "packing", "dpo compares");
    check(&pairs("pref_beta", json!(0)), "bad_value", "pref_beta", "0.0001");
    check(&pairs("pref_loss", json!("dpo")), "bad_value", "pref_loss", "sigmoid, hinge, ipo");
    check(&pairs("ref_model_adapters", json!("x")), "adapter_without_model", "ref_model", "without ref_model");
    check(&pairs("ref_model", json!("nowhere")), "unknown_model", "ref_model", "nowhere");
    check(&|c| c["stage"] = json!("distill"), "no_teacher", "teacher_model_name_or_path", "needs a teacher");
    check(&|c| c["lora_target"] = json!("q_porj"), "no_target", "lora_target", "no linear");
    check(&|c| c["stage"] = json!("ppo"), "no_reward_model", "reward_model", "no reward model");
    check(&|c| c["stage"] = json!("grpo"), "no_reward", "reward_funcs", "No reward");
    let alone = |c: &mut Value| {
        c.as_object_mut().unwrap().extend(json!({"stage": "grpo", "num_generations": 1}).as_object().unwrap().clone());
    };
    check(&alone, "bad_value", "num_generations", "num_generations is 1");
    check(&|c| c["template"] = json!("chatlm"), "unknown_template", "template", "chatlm");

    check(&|c| c["quantization_bit"] = json!(5), "bad_value", "quantization_bit", "must be one of 4, 8");
    let quantised = |c: &mut Value| {
        c["finetuning_type"] = json!("full");
        c["quantization_bit"] = json!(4);
    };
    check(&quantised, "quantised_and_trained", "quantization_bit", "full trains model.layers.0");
    check(&|c| c["use_galore"] = json!(true), "optimizer_needs_weights", "use_galore", "galore_adamw");
    check(&|c| c["optim"] = json!("badam"), "optimizer_needs_weights", "optim", "badam");
    let two = |c: &mut Value| {
        c["use_muon"] = json!(true);
        c["optim"] = json!("sgd");
    };
    check(&two, "two_optimizers", "use_muon", "optim sgd and use_muon");
    check(&|c| c["lr_scheduler_kwargs"] = json!("{\"x\": 1}"), "schedule_arguments", "lr_scheduler_kwargs", "x");

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
