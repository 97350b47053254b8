//! The engine against transformers and PEFT on tiny models of each family: logits, losses, gradients, greedy text,
//! schedules, AdamW and clipping. The expected values and the program that made them are in `fixtures/parity`.
#![allow(clippy::unwrap_used)]

mod common;

use api::{JobKind, Outcome, RunConfig};
use candle_core::{DType, Device, Tensor};
use common::{
    CASES, Case, distance, fixtures,
    jobs::{self, places},
    read_json, read_tensors, relative_distance,
};
use engine::{
    adapters::{Base, Precision, Tuning, adapter, lora::LoraTuning},
    export,
    files::ModelFiles,
    model::{Attach, Batch, Cache, Grads, Model, Source, Store, build, families::family},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::atomic::AtomicBool,
};

/// Largest difference of a logit; the logits are about 10.
const LOGITS: f32 = 1e-4;
const LOSS: f64 = 1e-5;
const GRADIENT: f32 = 1e-4;

#[test]
fn logits_of_each_family() {
    for case in CASES.map(Case::open) {
        let model = open(&case, &(), &mut Store::default());
        check_logits(&case, &model, "");
    }
}

#[test]
fn logits_of_packed_sequences_are_those_of_each_alone() {
    for case in CASES.map(Case::open) {
        let model = open(&case, &(), &mut Store::default());
        let lengths: Vec<_> = case.expected.ids.iter().map(Vec::len).collect();
        let packed = model.logits(&case.expected.ids.concat(), &lengths).unwrap();
        let mut start = 0;
        for (n, length) in lengths.into_iter().enumerate() {
            let off = distance(&packed.narrow(0, start, length).unwrap(), &case.tensors[&format!("logits.{n}")]);
            assert!(off < LOGITS, "{}: logits of sequence {n} are off by {off}", case.name);
            start += length;
        }
    }
}

#[test]
fn loss_of_each_family() {
    for case in CASES.map(Case::open) {
        let model = open(&case, &(), &mut Store::default());
        let batch = batch(&case);
        let loss = model.loss(&batch).unwrap() / batch.targets.len() as f64;
        let expected = case.expected.loss;
        assert!((loss - expected).abs() < LOSS * expected, "{}: the loss is {loss}, not {expected}", case.name);
    }
}

/// All weights where the fixture has all (Llama and most families, with tied embeddings among them), norms and biases
/// elsewhere.
#[test]
fn gradients_of_full_tuning() {
    let mut seen = 0;
    for case in CASES.map(Case::open) {
        let expected = case.with_prefix("grad.");
        if expected.is_empty() {
            continue;
        }
        let mut worst = 0.0f32;
        for recompute in [false, true] {
            let mut store = Store::default();
            let mut model = open(&case, &Full, &mut store);
            model.recompute = recompute;
            let grads = learn(&case, &model, case.expected.loss);
            for (name, expected) in &expected {
                let gradient = grads.get(name).unwrap_or_else(|| panic!("{}: {name} got no gradient", case.name));
                let gradient = store.get(name).unwrap().stored(gradient.clone()).unwrap();
                let off = relative_distance(&gradient, expected);
                assert!(off < GRADIENT, "{}: the gradient of {name} is off by {off} of its norm", case.name);
                (seen, worst) = (seen + 1, worst.max(off));
            }
            assert_eq!(grads.iter().count(), store.trainable().count(), "{}", case.name);
        }
        println!("{}: {} gradients of full tuning, the worst off by {worst:.1e}", case.name, expected.len());
    }
    assert!(seen >= 2 * (20 + 4 * 5), "{seen}");
}

/// With the key-value cache, also where the frequencies change on the way (dynamic rope) and where old keys leave the
/// window.
#[test]
fn greedy_text_of_each_family() {
    for case in CASES.map(Case::open) {
        let model = open(&case, &(), &mut Store::default());
        check_greedy(&case, &model, &case.expected.greedy);
    }
}

#[test]
fn lora_logits_and_greedy_text() {
    for case in CASES.map(Case::open) {
        let tuning = LoraTuning::read(&case.adapter).unwrap();
        let model = open(&case, &tuning, &mut Store::default());
        check_logits(&case, &model, "lora.");
        check_greedy(&case, &model, &case.expected.lora_greedy);
    }
}

#[test]
fn lora_gradients_tensor_by_tensor() {
    for case in CASES.map(Case::open) {
        let tuning = LoraTuning::read(&case.adapter).unwrap();
        let mut worst = 0.0f32;
        for recompute in [false, true] {
            let mut store = Store::default();
            let mut model = open(&case, &tuning, &mut store);
            model.recompute = recompute;
            let grads = learn(&case, &model, case.expected.lora_loss);
            let expected = case.with_prefix("lora.grad.base_model.model.");
            assert!(expected.len() >= 2 * 2 * 3, "{}", case.name);
            assert_eq!(store.trainable().count(), expected.len(), "{}", case.name);
            assert_eq!(grads.iter().count(), expected.len(), "{}", case.name);
            for (name, expected) in &expected {
                let gradient = grads.get(name).unwrap_or_else(|| panic!("{}: {name} got no gradient", case.name));
                let off = relative_distance(gradient, expected);
                assert!(off < GRADIENT, "{}: the gradient of {name} is off by {off} of its norm", case.name);
                worst = worst.max(off);
            }
        }
        println!("{}: the worst gradient of LoRA is off by {worst:.1e}", case.name);
    }
}

/// Longer than a tile of the attention and a chunk of the head.
#[test]
fn long_sequences_have_the_same_logits_and_gradients() {
    for case in ["llama", "mistral", "qwen2"].map(Case::open) {
        let folder = fixtures().join(&case.name);
        let (long, expected): (Long, _) =
            (read_json(&folder.join("long.json")), read_tensors(&folder.join("long.safetensors")));
        let tuning = LoraTuning::read(&case.adapter).unwrap();
        let model = open(&case, &tuning, &mut Store::default());
        let logits = model.logits(&long.ids, &[long.ids.len()]).unwrap();
        let logits = logits.index_select(&Tensor::new(long.rows, &Device::Cpu).unwrap(), 0).unwrap();
        let off = distance(&logits, &expected["logits"]);
        assert!(off < LOGITS, "{}: logits are off by {off}", case.name);

        let batch = Batch::new([(long.ids.as_slice(), vec![true; long.ids.len()].as_slice())]);
        let grads = learn_batch(&case, &model, &batch, long.lora_loss);
        let expected = expected.iter().filter_map(|(k, g)| Some((k.strip_prefix("lora.grad.base_model.model.")?, g)));
        assert_eq!(expected.clone().count(), grads.iter().count());
        for (name, expected) in expected {
            let off = relative_distance(grads.get(name).unwrap(), expected);
            assert!(off < GRADIENT, "{}: the gradient of {name} is off by {off} of its norm", case.name);
        }
    }
}

/// Whole runs, from a dataset to the last step: loss, learning rate and gradient norm of every step are those of a plain
/// PyTorch loop with the same settings.
#[test]
fn a_run_is_that_of_a_pytorch_loop() {
    let runs: Runs = read_json(&fixtures().join("run.json"));
    assert_eq!(runs.runs.len(), 8);
    for expected in runs.runs {
        let case = Case::open(&expected.case);
        case.write_tokenizer();
        let home = tempfile::tempdir().unwrap();
        let words = |ids: &Vec<u32>| ids.iter().map(|id| format!("t{id}")).collect::<Vec<_>>().join(" ");
        let rows: Vec<_> = case.expected.ids.iter().map(|ids| json!({"text": words(ids)})).collect();
        let info = json!({"two": {"file_name": "two.json", "columns": {"prompt": "text"}}});
        std::fs::write(home.path().join("two.json"), json!(rows).to_string()).unwrap();
        std::fs::write(home.path().join("dataset_info.json"), info.to_string()).unwrap();
        let mut config = RunConfig(runs.settings.clone());
        config.set("model_name_or_path", case.model.path().to_str());
        config.set("stage", "pt");
        config.set("compute_type", "fp32");
        config.set("packing", false);
        config.set("dataset", "two");
        config.set("dataset_dir", home.path().to_str());
        config.set("per_device_train_batch_size", 2);
        config.set("finetuning_type", expected.finetuning_type.as_str());
        if expected.finetuning_type == "lora" {
            config.set("adapter_name_or_path", case.adapter.to_str());
        }
        let dir = home.path().join("run");
        let ended = jobs::job(home.path(), &dir, JobKind::Train, config, None);
        assert_eq!(ended.outcome, Outcome::Succeeded, "{:?}", ended.events.last());
        assert_eq!(ended.steps().count(), expected.steps.len());
        let (name, kind) = (&case.name, &expected.finetuning_type);
        for (n, (step, expected)) in ended.steps().zip(&expected.steps).enumerate() {
            for (key, most) in [("loss", 1e-4), ("grad_norm", 2e-4), ("learning_rate", 1e-9)] {
                let off = (step[key] - expected[key]).abs() / expected[key].abs().max(1e-12);
                assert!(off < most, "{name}, {kind}, step {n}: {key} is {}, not {}", step[key], expected[key]);
            }
        }
    }
}

#[derive(Deserialize)]
struct Long {
    ids: Vec<u32>,
    rows: Vec<u32>,
    lora_loss: f64,
}

#[derive(Deserialize)]
struct Runs {
    settings: Map<String, Value>,
    runs: Vec<ExpectedRun>,
}

#[derive(Deserialize)]
struct ExpectedRun {
    case: String,
    finetuning_type: String,
    steps: Vec<BTreeMap<String, f64>>,
}

/// Names, values and configuration are those that PEFT wrote.
#[test]
fn a_saved_adapter_is_what_peft_saves() {
    for case in ["llama", "qwen3", "gpt2", "phi3", "internlm2", "mixtral"].map(Case::open) {
        let files = ModelFiles::open(case.model.path()).unwrap();
        let (tuning, mut store) = (LoraTuning::read(&case.adapter).unwrap(), Store::default());
        let model = open(&case, &tuning, &mut store);
        let saved = tempfile::tempdir().unwrap();
        tuning.save(saved.path(), &model, &store, &Base { files: &files, name: "tiny" }, Precision::Exact).unwrap();

        let [ours, theirs] =
            [saved.path(), &case.adapter].map(|dir| read_tensors(&dir.join("adapter_model.safetensors")));
        let names = |tensors: &HashMap<String, Tensor>| tensors.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&theirs));
        for (name, theirs) in &theirs {
            assert_eq!(distance(&ours[name], theirs), 0.0, "{name}");
        }
        let [ours, theirs] =
            [saved.path(), &case.adapter].map(|dir| read_json::<Value>(&dir.join("adapter_config.json")));
        for key in ["peft_type", "task_type", "base_model_name_or_path", "bias", "fan_in_fan_out", "use_rslora", "r"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
        assert_eq!(ours["lora_alpha"].as_f64(), theirs["lora_alpha"].as_f64());
    }
}

/// Full tuning saves what stands in the files of the hub: the same names, shapes and, untrained, values.
#[test]
fn a_fully_tuned_model_has_the_names_of_its_base() {
    for case in CASES.map(Case::open) {
        let files = ModelFiles::open(case.model.path()).unwrap();
        let tuning = adapter("full").unwrap().start(&RunConfig::default(), None).unwrap();
        let mut store = Store::default();
        let model = open(&case, tuning.as_ref(), &mut store);
        let saved = tempfile::tempdir().unwrap();
        case.write_tokenizer();
        tuning.save(saved.path(), &model, &store, &Base { files: &files, name: "tiny" }, Precision::Exact).unwrap();
        let [ours, theirs] = [saved.path(), case.model.path()].map(|dir| read_tensors(&dir.join("model.safetensors")));
        let names = |tensors: &HashMap<String, Tensor>| tensors.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&theirs), "{}", case.name);
        for (name, theirs) in &theirs {
            assert_eq!(distance(&ours[name], theirs), 0.0, "{}: {name}", case.name);
        }
        let values: usize = theirs.values().map(Tensor::elem_count).sum();
        assert_eq!(model.config.parameters(), values as u64, "{}", case.name);
    }
}

/// Early files of GPT-2: no `transformer.` before the names, and masks among the weights.
#[test]
fn early_files_of_gpt2_are_read() {
    let case = Case::open("gpt2");
    let path = case.model.path().join("model.safetensors");
    let early = read_tensors(&path).into_iter().map(|(name, t)| (name.replace("transformer.", ""), t));
    let mut early: HashMap<String, Tensor> = early.collect();
    early.insert("h.0.attn.bias".into(), Tensor::ones((1, 1, 4, 4), DType::U8, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&early, &path).unwrap();
    let model = open(&case, &(), &mut Store::default());
    check_logits(&case, &model, "");
}

/// In bf16 the same model, as exactly as that type allows.
#[test]
fn losses_and_gradients_in_bf16_are_near() {
    for case in CASES.map(Case::open) {
        let tuning = LoraTuning::read(&case.adapter).unwrap();
        let model = open_as(case.model.path(), &tuning, &mut Store::default(), DType::BF16);
        let batch = batch(&case);
        let (mut grads, targets) = (Grads::default(), batch.targets.len() as f64);
        let loss = model.learn(&batch, 1.0 / targets as f32, 0, &mut grads).unwrap() / targets;
        let expected = case.expected.lora_loss;
        assert!((loss - expected).abs() < 0.02 * expected, "{}: the loss is {loss}, not {expected}", case.name);
        let expected = case.with_prefix("lora.grad.base_model.model.");
        let all = |of: &dyn Fn(&str) -> Tensor| {
            let flat: Vec<Tensor> = expected.keys().map(|name| of(name).flatten_all().unwrap()).collect();
            Tensor::cat(&flat, 0).unwrap()
        };
        let off =
            relative_distance(&all(&|name| grads.get(name).unwrap().clone()), &all(&|name| expected[name].clone()));
        assert!(off < 0.1, "{}: the gradient is off by {off} of its norm", case.name);
        let loss = (loss / case.expected.lora_loss - 1.0).abs();
        println!("{}: in bf16 the loss is off by {loss:.1e}, the gradient by {off:.1e}", case.name);
    }
}

/// The exported folder, opened anew, has the logits that PEFT has with the adapter beside the model.
#[test]
fn a_merged_export_has_the_logits_of_the_adapter() {
    let unlike = CASES.iter().filter(|case| !case.starts_with("llama") || ["llama-bias", "llama-yarn"].contains(case));
    for case in unlike.map(|case| Case::open(case)) {
        case.write_tokenizer();
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("merged");
        let config = json!({
            "model_name_or_path": case.model.path(), "adapter_name_or_path": case.adapter, "export_dir": out,
            "export_size": 0.00003,
        });
        let config: RunConfig = serde_json::from_value(config).unwrap();
        let places = places(home.path());
        let done = export::export(&config, "export", home.path(), &places, &mut |_| Ok(()), &AtomicBool::new(false))
            .unwrap()
            .0;
        assert_eq!(done, Outcome::Succeeded);
        assert!(!out.join("model.safetensors").exists(), "30 KB at most a file: in shards");
        let model = open_folder(&out, &(), &mut Store::default());
        check_logits(&case, &model, "lora.");
    }
}

/// Trains everything.
struct Full;

impl Attach for Full {
    fn trains(&self, _: &str) -> bool {
        true
    }
}

fn open(case: &Case, attach: &dyn Attach, store: &mut Store) -> Model {
    open_folder(case.model.path(), attach, store)
}

fn open_folder(folder: &Path, attach: &dyn Attach, store: &mut Store) -> Model {
    open_as(folder, attach, store, DType::F32)
}

fn open_as(folder: &Path, attach: &dyn Attach, store: &mut Store, compute: DType) -> Model {
    let files = ModelFiles::open(folder).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    build(&config, &Source::Files(&files), attach, store, &Device::Cpu, compute).unwrap()
}

fn check_logits(case: &Case, model: &Model, prefix: &str) {
    for (n, ids) in case.expected.ids.iter().enumerate() {
        let logits = model.logits(ids, &[ids.len()]).unwrap();
        let off = distance(&logits, &case.tensors[&format!("{prefix}logits.{n}")]);
        assert!(off < LOGITS, "{}: logits of sequence {n} are off by {off}", case.name);
        println!("{}: {prefix}logits of sequence {n} are off by {off:.1e}", case.name);
    }
}

fn check_greedy(case: &Case, model: &Model, expected: &[Vec<u32>]) {
    for (ids, expected) in case.expected.ids.iter().zip(expected) {
        let mut cache = Cache::new(model.layers.len());
        let mut logits = model.step(ids, &mut cache).unwrap();
        let mut text = Vec::new();
        while text.len() < expected.len() {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
            text.push(best);
            logits = model.step(&[best], &mut cache).unwrap();
        }
        assert_eq!(&text, expected, "{}", case.name);
    }
}

/// Gradients of the mean loss over all targets; checks the loss on the way.
fn learn(case: &Case, model: &Model, expected: f64) -> Grads {
    learn_batch(case, model, &batch(case), expected)
}

fn learn_batch(case: &Case, model: &Model, batch: &Batch, expected: f64) -> Grads {
    let mut grads = Grads::default();
    let targets = batch.targets.len() as f64;
    let loss = model.learn(batch, 1.0 / targets as f32, 0, &mut grads).unwrap() / targets;
    assert!((loss - expected).abs() < LOSS * expected, "{}: the loss is {loss}, not {expected}", case.name);
    grads
}

fn batch(case: &Case) -> Batch {
    let masks: Vec<Vec<bool>> = case.expected.mask.iter().map(|m| m.iter().map(|m| *m == 1).collect()).collect();
    Batch::new(case.expected.ids.iter().zip(&masks).map(|(ids, mask)| (ids.as_slice(), mask.as_slice())))
}
