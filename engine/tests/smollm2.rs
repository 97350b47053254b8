//! SmolLM2-135M in the engine and in transformers and PEFT: logits, loss, gradients, adapters both ways, merged export.
//! Runs where `LATHE_ORACLES` names what `scripts/oracle-venv.sh DIR` makes; says that it is skipped elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    RunConfig,
    data::Message,
    params::{ComputeType, GenerateParams, ModelParams},
};
use candle_core::{DType, Device, Tensor};
use common::{Oracle, distance, read_tensors, relative_distance};
use engine::{
    Places,
    adapters::{Base, Precision, Tuning, lora::LoraTuning},
    export,
    files::ModelFiles,
    loaded::Loaded,
    model::{Attach, Batch, Grads, Model, Source, Store, build, families::family},
};
use serde_json::json;
use std::{path::Path, sync::atomic::AtomicBool};

/// Largest difference of a logit; the logits are about 30.
const LOGITS: f32 = 1e-3;

const TEXTS: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog, 1234 times; it's what it does.",
    "你是谁？我是一个由 Lathe 训练的助手。\n\n很高兴认识你！",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\tprint(fib(10))  # 55 🦊",
    "I am Lathe, an AI assistant. How can I assist you today?",
];

const CHATS: [&str; 2] = ["Who are you?", "你是谁？"];

#[test]
fn tokens_are_those_of_transformers() {
    let Some(oracle) = Oracle::open("tokens_are_those_of_transformers") else { return };
    let question = oracle.write_json("texts.json", &json!({"texts": TEXTS, "chats": []}));
    let answer = oracle.ask("tokens.py", &[&oracle.path("smollm2"), &question]);
    let expected: Vec<Vec<u32>> = serde_json::from_value(answer["texts"].clone()).unwrap();
    for model in ["smollm2", "smollm2-f32", "smollm2.gguf"] {
        let tokenizer = ModelFiles::open(oracle.path(model)).unwrap().tokenizer().unwrap();
        for (text, expected) in TEXTS.iter().zip(&expected) {
            assert_eq!(tokenizer.tokenizer.encode(*text, false).unwrap().get_ids(), expected, "{model}: {text}");
        }
    }
}

/// The folder in bfloat16 and the same numbers in float32; and the GGUF file, dequantised.
#[test]
fn logits_are_those_of_transformers() {
    let Some(oracle) = Oracle::open("logits_are_those_of_transformers") else { return };
    let ids = ids(&oracle);
    for (ours, theirs) in [("smollm2", "smollm2-f32"), ("smollm2.gguf", "smollm2.gguf")] {
        let model = open(&oracle.path(ours), &(), &mut Store::default());
        check_logits(&oracle, &model, &oracle.path(theirs), None, &ids);
    }
}

/// An adapter that PEFT saved: logits with it, the first loss of a fixed batch and the gradient of each tensor.
#[test]
fn an_adapter_of_peft_trains_here_as_there() {
    let Some(oracle) = Oracle::open("an_adapter_of_peft_trains_here_as_there") else { return };
    let base = oracle.path("smollm2");
    let adapter = oracle.work.path().join("adapter");
    oracle.ask("adapter.py", &[&base, &adapter, Path::new("8"), Path::new("11")]);
    let ids = ids(&oracle);
    let (tuning, mut store) = (LoraTuning::read(&adapter).unwrap(), Store::default());
    let model = open(&base, &tuning, &mut store);
    check_logits(&oracle, &model, &base, Some(&adapter), &ids);

    // The answers are trained, the first five tokens of each text are not.
    let masks: Vec<Vec<bool>> = ids.iter().map(|ids| (0..ids.len()).map(|i| i >= 5).collect()).collect();
    let numbers: Vec<Vec<u8>> = masks.iter().map(|m| m.iter().map(|m| u8::from(*m)).collect()).collect();
    let question = oracle.write_json("batch.json", &json!({"ids": ids, "mask": numbers}));
    let out = oracle.work.path().join("gradients.safetensors");
    let expected = oracle.ask("loss.py", &[&base, &question, &out, &adapter])["loss"].as_f64().unwrap();
    let batch = Batch::new(ids.iter().zip(&masks).map(|(ids, mask)| (ids.as_slice(), mask.as_slice())));
    let (targets, mut grads) = (batch.targets.len() as f64, Grads::default());
    let loss = model.learn(&batch, 1.0 / targets as f32, 0, &mut grads).unwrap() / targets;
    println!("loss {loss}, of PEFT {expected}");
    assert!((loss - expected).abs() < 1e-4, "the loss is {loss}, not {expected}");

    let expected = read_tensors(&out);
    assert_eq!(expected.len(), 30 * 7 * 2);
    let mut worst = (0.0, String::new());
    for (name, expected) in &expected {
        let name = name.strip_prefix("base_model.model.").unwrap();
        let off = relative_distance(grads.get(name).unwrap_or_else(|| panic!("{name} got no gradient")), expected);
        if off > worst.0 {
            worst = (off, name.to_string());
        }
    }
    println!("gradients are off by at most {} of their norm ({})", worst.0, worst.1);
    assert!(worst.0 < 1e-3, "the gradient of {} is off by {} of its norm", worst.1, worst.0);
    assert_eq!(grads.iter().count(), expected.len());
}

/// An adapter saved here, in PEFT: the same logits.
#[test]
fn an_adapter_of_ours_loads_in_peft() {
    let Some(oracle) = Oracle::open("an_adapter_of_ours_loads_in_peft") else { return };
    let base = oracle.path("smollm2");
    let (files, ids) = (ModelFiles::open(&base).unwrap(), ids(&oracle));
    let tuning = new_lora();
    let mut store = Store::default();
    let model = open(&base, tuning.as_ref(), &mut store);
    disturb(&store);
    let adapter = oracle.work.path().join("ours");
    std::fs::create_dir(&adapter).unwrap();
    tuning.save(&adapter, &model, &store, &Base { files: &files, name: "smollm2" }, Precision::Exact).unwrap();
    check_logits(&oracle, &model, &base, Some(&adapter), &ids);
}

/// An adapter saved here and merged: transformers gives the text that Lathe gives with the adapter on the model, for a
/// float32 export; and what Lathe gives with the export, for one in the model's bfloat16.
#[test]
fn a_merged_export_says_the_same_in_transformers() {
    let Some(oracle) = Oracle::open("a_merged_export_says_the_same_in_transformers") else { return };
    let base = oracle.path("smollm2");
    let adapter = oracle.work.path().join("adapter");
    oracle.ask("adapter.py", &[&base, &adapter, Path::new("8"), Path::new("12")]);
    let places = Places { home: oracle.work.path().into(), hub_cache: oracle.work.path().join("hub") };
    let question =
        oracle.write_json("chats.json", &json!(CHATS.map(|text| [json!({"role": "user", "content": text})])));
    let with_adapter = ModelParams {
        model_name_or_path: base.display().to_string(),
        adapter_name_or_path: Some(adapter.display().to_string()),
        ..ModelParams::default()
    };
    for (dtype, whole) in [(Some("float32"), false), (None, true)] {
        let out = oracle.work.path().join(dtype.unwrap_or("as-the-model"));
        let config = json!({
            "model_name_or_path": base, "adapter_name_or_path": adapter, "export_dir": out, "export_dtype": dtype,
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        export::export(&config, "export", oracle.work.path(), &places, &mut |_| Ok(()), &AtomicBool::new(false))
            .unwrap();
        let merged = ModelParams { model_name_or_path: out.display().to_string(), ..ModelParams::default() };
        let loaded = Loaded::open(if whole { &merged } else { &with_adapter }, &places, ComputeType::Fp32).unwrap();
        let expected = oracle.ask("generate.py", &[&out, Path::new("32"), &question]);
        for (text, expected) in CHATS.iter().zip(expected.as_array().unwrap()) {
            let message = Message { role: "user".into(), content: text.to_string() };
            let params = GenerateParams { do_sample: false, max_new_tokens: 32, ..GenerateParams::default() };
            assert_eq!(
                json!(loaded.encoder.prompt(std::slice::from_ref(&message), None).unwrap()),
                expected["prompt_ids"]
            );
            let request = loaded.answer(&[message], None, params).unwrap();
            let mut engine = loaded.engine().unwrap();
            let answer = engine.answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0.remove(0);
            println!("{text}: {}", answer.text);
            assert_eq!(json!(answer.ids), expected["ids"], "{text}");
            assert_eq!(answer.text, expected["text"].as_str().unwrap());
        }
    }
}

/// The texts in tokens; that these are right is a test of its own.
fn ids(oracle: &Oracle) -> Vec<Vec<u32>> {
    let tokenizer = ModelFiles::open(oracle.path("smollm2")).unwrap().tokenizer().unwrap().tokenizer;
    TEXTS.iter().map(|text| tokenizer.encode(*text, false).unwrap().get_ids().to_vec()).collect()
}

fn open(path: &Path, attach: &dyn Attach, store: &mut Store) -> Model {
    let files = ModelFiles::open(path).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    build(&config, &Source::Files(&files), attach, store, &Device::Cpu, DType::F32).unwrap()
}

fn check_logits(oracle: &Oracle, model: &Model, theirs: &Path, adapter: Option<&Path>, ids: &[Vec<u32>]) {
    let question = oracle.write_json("ids.json", &json!(ids));
    let out = oracle.work.path().join("logits.safetensors");
    let mut arguments = vec![theirs, &question, &out];
    arguments.extend(adapter);
    oracle.ask("logits.py", &arguments);
    let expected = read_tensors(&out);
    let worst = ids.iter().enumerate().map(|(n, ids)| {
        let logits = model.logits(ids, &[ids.len()]).unwrap();
        distance(&logits, &expected[&format!("logits.{n}")])
    });
    let worst = worst.fold(0.0, f32::max);
    println!("{}: logits are off by at most {worst}", theirs.display());
    assert!(worst < LOGITS, "{}: logits are off by {worst}", theirs.display());
}

fn new_lora() -> Box<dyn Tuning> {
    let config: RunConfig = serde_json::from_value(json!({"lora_rank": 8, "lora_target": "all"})).unwrap();
    engine::adapters::adapter("lora").unwrap().start(&config, None).unwrap()
}

/// Moves each B away from 0, as training would.
fn disturb(store: &Store) {
    for parameter in store.trainable().filter(|p| p.name.ends_with("lora_B.weight")) {
        let shape = parameter.get().shape().clone();
        let values: Vec<f32> = (0..shape.elem_count()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 2500.0).collect();
        parameter.set(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
}
