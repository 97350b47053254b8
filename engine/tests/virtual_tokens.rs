//! Prompt tuning, P-tuning, prefix tuning and bottleneck adapters against PEFT (the last against PyTorch's own modules) on
//! tiny models: logits, loss, gradients, greedy text, folders. The expected values and the program that made them are in
//! `fixtures/virtual_tokens`.
#![allow(clippy::unwrap_used)]

mod common;

use api::{Problems, RunConfig};
use candle_core::{DType, Device, Tensor};
use common::{Case, Oracle, distance, read_json, read_tensors, relative_distance};
use engine::{
    adapters::{self, Base, Precision, Tuning, adapter},
    files::ModelFiles,
    model::{Batch, Cache, Grads, Model, Source, Store, Weights, build, families::family},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

/// Largest difference of a logit; the logits are about 10.
const LOGITS: f32 = 1e-4;
const LOSS: f64 = 1e-5;
const GRADIENT: f32 = 1e-5;

/// Folder of the fixtures, tuning type, settings.
const VIRTUAL: [(&str, &str, &str); 10] = [
    ("prompt-llama", "prompt", "{}"),
    ("prompt-gpt2", "prompt", "{}"),
    ("prompt-gemma3_text", "prompt", "{}"),
    ("prompt-granite", "prompt", "{}"),
    ("p_tuning-mlp", "p_tuning", r#"{"encoder_hidden_size": 8}"#),
    ("p_tuning-lstm", "p_tuning", r#"{"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 4}"#),
    ("prefix-llama", "prefix", "{}"),
    ("prefix-gpt2", "p_tuning", r#"{"p_tuning_version": "v2"}"#),
    ("prefix-mistral", "prefix", "{}"),
    ("prefix-projected", "prefix", r#"{"prefix_projection": true, "encoder_hidden_size": 8}"#),
];
const BOTTLENECKS: [(&str, &str, &str); 2] = [
    ("adapter-houlsby", "adapter", r#"{"adapter_size": 4}"#),
    (
        "adapter-pfeiffer",
        "adapter",
        r#"{"adapter_size": 4, "adapter_place": "pfeiffer", "adapter_non_linearity": "gelu"}"#,
    ),
];

/// Keys of every adapter that PEFT writes as null.
const COMMON: [&str; 3] = ["auto_mapping", "modules_to_save", "revision"];

#[derive(Deserialize)]
struct Expected {
    model: String,
    ids: Vec<Vec<u32>>,
    mask: Vec<Vec<u8>>,
    loss: f64,
    greedy: Vec<Vec<u32>>,
}

struct Fixture {
    name: &'static str,
    kind: &'static str,
    settings: RunConfig,
    folder: PathBuf,
    base: Case,
    expected: Expected,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    fn open((name, kind, settings): (&'static str, &'static str, &str)) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/virtual_tokens").join(name);
        let expected: Expected = read_json(&folder.join("expected.json"));
        let base = Case::open(&expected.model);
        let mut settings: RunConfig = serde_json::from_str(settings).unwrap();
        settings.set("num_virtual_tokens", 3);
        let tensors = read_tensors(&folder.join("expected.safetensors"));
        Self { name, kind, settings, folder, base, expected, tensors }
    }

    /// A tuning as a run begins it, or as it reads the adapter of a folder.
    fn tuning(&self, previous: Option<&Path>) -> Box<dyn Tuning> {
        adapter(self.kind).unwrap().start(&self.settings, previous).unwrap()
    }

    /// The model with a new tuning whose parameters begin as those of the fixture.
    fn begun(&self) -> (Box<dyn Tuning>, Model, Store) {
        let (tuning, mut store) = (self.tuning(None), Store::default());
        let model = self.model(tuning.as_ref(), &mut store);
        let begin: Vec<_> = self.tensors.keys().filter(|name| name.starts_with("start.")).collect();
        assert_eq!(store.trainable().count(), begin.len(), "{}", self.name);
        for parameter in store.trainable() {
            let value = &self.tensors[&format!("start.{}", plain(&parameter.name))];
            assert_eq!(value.shape(), parameter.get().shape(), "{}: {}", self.name, parameter.name);
            parameter.set(value.clone());
        }
        (tuning, model, store)
    }

    fn model(&self, tuning: &dyn Tuning, store: &mut Store) -> Model {
        let files = self.files();
        let config = family(files.config()).unwrap().config(files.config()).unwrap();
        let (count, _) = tuning.count(&config).unwrap();
        let model = build(&config, &Source::Files(&files), tuning, store, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(store.count(), count, "{}", self.name);
        model
    }

    fn files(&self) -> ModelFiles {
        ModelFiles::open(self.base.model.path()).unwrap()
    }

    fn batch(&self) -> Batch {
        let masks: Vec<Vec<bool>> = self.expected.mask.iter().map(|m| m.iter().map(|m| *m == 1).collect()).collect();
        Batch::new(self.expected.ids.iter().zip(&masks).map(|(ids, mask)| (ids.as_slice(), mask.as_slice())))
    }

    /// Packed logits are those of each sequence alone, in PEFT.
    fn check_logits(&self, model: &Model) {
        let lengths: Vec<usize> = self.expected.ids.iter().map(Vec::len).collect();
        let logits = model.logits(&self.expected.ids.concat(), &lengths).unwrap();
        let mut start = 0;
        for (n, length) in lengths.into_iter().enumerate() {
            let own = logits.narrow(0, start, length).unwrap();
            let off = distance(&own, &self.tensors[&format!("logits.{n}")]);
            assert!(off < LOGITS, "{}: logits of sequence {n} are off by {off}", self.name);
            start += length;
        }
    }

    /// Token by token with the cache; the prompt in one piece and in two.
    fn check_greedy(&self, model: &Model) {
        for (ids, expected) in self.expected.ids.iter().zip(&self.expected.greedy) {
            for cut in [ids.len(), 2] {
                let mut cache = Cache::new(model.layers.len());
                let (first, second) = ids.split_at(cut);
                let mut logits = model.step(first, &mut cache).unwrap();
                if !second.is_empty() {
                    logits = model.step(second, &mut cache).unwrap();
                }
                let mut text = Vec::new();
                while text.len() < expected.len() {
                    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
                    text.push(best);
                    logits = model.step(&[best], &mut cache).unwrap();
                }
                assert_eq!(&text, expected, "{}", self.name);
            }
        }
    }

    fn save(&self, tuning: &dyn Tuning, model: &Model, store: &Store, precision: Precision) -> tempfile::TempDir {
        let (saved, files) = (tempfile::tempdir().unwrap(), self.files());
        tuning.save(saved.path(), model, store, &Base { files: &files, name: "tiny" }, precision).unwrap();
        saved
    }
}

/// A parameter's name in PEFT's prompt encoder.
fn plain(name: &str) -> &str {
    match name {
        "prompt_embeddings" => "embedding.weight",
        other => other.strip_prefix("prompt_encoder.").unwrap_or(other),
    }
}

fn all() -> impl Iterator<Item = Fixture> {
    VIRTUAL.into_iter().chain(BOTTLENECKS).map(Fixture::open)
}

#[test]
fn folders_of_peft_give_its_logits_and_text() {
    for case in VIRTUAL.map(Fixture::open) {
        let tuning = adapters::read(&case.folder.join("adapter")).unwrap();
        assert_eq!(tuning.merges().unwrap_err().into_problem().code, "not_mergeable");
        let model = case.model(tuning.as_ref(), &mut Store::default());
        case.check_logits(&model);
        case.check_greedy(&model);
    }
}

#[test]
fn loss_and_gradients_while_training() {
    for case in all() {
        let (_, mut model, store) = case.begun();
        case.check_logits(&model);
        let batch = case.batch();
        let targets = batch.targets.len() as f64;
        for recompute in [false, true] {
            model.recompute = recompute;
            let mut grads = Grads::default();
            let loss = model.learn(&batch, 1.0 / targets as f32, 0, &mut grads).unwrap() / targets;
            let expected = case.expected.loss;
            assert!((loss - expected).abs() < LOSS * expected, "{}: the loss is {loss}, not {expected}", case.name);
            assert_eq!(grads.iter().count(), store.trainable().count(), "{}", case.name);
            for (name, gradient) in grads.iter() {
                let off = relative_distance(gradient, &case.tensors[&format!("grad.{}", plain(name))]);
                assert!(off < GRADIENT, "{}: the gradient of {name} is off by {off} of its norm", case.name);
            }
        }
    }
}

/// Losses of each sequence, hidden states and log probabilities of the base, all in one batch.
#[test]
fn the_base_alone_has_nothing_attached() {
    for case in all() {
        let (_, model, _) = case.begun();
        let files = case.files();
        let plain = build(&model.config, &Source::Files(&files), &(), &mut Store::default(), &Device::Cpu, DType::F32);
        let (plain, batch) = (plain.unwrap(), case.batch());
        let [base, alone] = [&model, &plain].map(|m| m.states(&batch, Weights::Base).unwrap());
        assert_eq!(distance(&base, &alone), 0.0, "{}", case.name);
        let losses = model.losses(&batch).unwrap();
        let tuned: Vec<f64> = model.log_probs(&batch, Weights::Tuned).unwrap().into_iter().map(f64::from).collect();
        assert!((losses.iter().sum::<f64>() + tuned.iter().sum::<f64>()).abs() < 1e-4, "{}", case.name);
        let mean = losses.iter().sum::<f64>() / batch.targets.len() as f64;
        assert!((mean - case.expected.loss).abs() < LOSS * mean, "{}", case.name);
        assert!((model.loss(&batch).unwrap() - plain.loss(&batch).unwrap()).abs() > 0.01, "{}", case.name);
    }
}

/// Noise falls on the text alone, as strong as the text's own length asks for.
#[test]
fn virtual_tokens_get_no_noise() {
    let case = Fixture::open(VIRTUAL[0]);
    let (_, mut model, _) = case.begun();
    let batch = case.batch();
    let of = |model: &Model| {
        let mut grads = Grads::default();
        (model.learn(&batch, 1.0, 5, &mut grads).unwrap(), grads.get("prompt_embeddings").unwrap().clone())
    };
    let (quiet, _) = of(&model);
    model.noise = Some(20.0);
    let (noisy, gradient) = of(&model);
    assert!((quiet - noisy).abs() > 1e-3, "{quiet} {noisy}");
    // The table's slope under that noise, by its change along the gradient.
    let parameter = model.virtual_tokens.as_ref().unwrap().parameters[0].clone();
    let (value, step) = (parameter.get(), 1e-3);
    let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    let at = |step: f64| {
        parameter.set((&value + (&gradient * (step / f64::from(norm))).unwrap()).unwrap());
        of(&model).0
    };
    let slope = (at(step) - at(-step)) / (2.0 * step);
    assert!((slope - f64::from(norm)).abs() < 0.02 * f64::from(norm), "{slope}, not {norm}");
}

#[test]
fn what_is_saved_is_what_peft_saves() {
    for case in VIRTUAL.map(Fixture::open) {
        let (tuning, model, store) = case.begun();
        let saved = case.save(tuning.as_ref(), &model, &store, Precision::Storage);
        let theirs = case.folder.join("adapter");
        let [ours, expected] = [saved.path(), &theirs].map(|dir| read_tensors(&dir.join("adapter_model.safetensors")));
        let names = |tensors: &HashMap<String, Tensor>| tensors.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&expected), "{}", case.name);
        for (name, expected) in &expected {
            let off = distance(&ours[name], expected);
            assert!(off < 1e-5, "{}: {name} is {off} off", case.name);
        }
        let [ours, expected] = [saved.path(), &theirs].map(|dir| read_json::<Value>(&dir.join("adapter_config.json")));
        assert_eq!(ours, expected, "{}", case.name);

        // Going on from what was saved saves the same.
        let (further, mut store) = (case.tuning(Some(saved.path())), Store::default());
        let model = case.model(further.as_ref(), &mut store);
        let again = case.save(further.as_ref(), &model, &store, Precision::Storage);
        let mut expected = expected;
        // Null stands for PEFT's default.
        expected.as_object_mut().unwrap().retain(|key, value| !value.is_null() || COMMON.contains(&key.as_str()));
        assert_eq!(read_json::<Value>(&again.path().join("adapter_config.json")), expected, "{}", case.name);
        case.check_logits(&model);
    }
}

/// PEFT itself loads the folders. Slow, so it waits for an environment that has it.
#[test]
fn peft_loads_what_is_saved() {
    let Some(oracle) = Oracle::open("peft_loads_what_is_saved") else { return };
    for case in VIRTUAL.map(Fixture::open) {
        let (tuning, model, store) = case.begun();
        let saved = case.save(tuning.as_ref(), &model, &store, Precision::Storage);
        let ids = oracle.write_json("ids.json", &json!(case.expected.ids[0]));
        let out = oracle.work.path().join("logits.safetensors");
        oracle.ask("virtual_tokens.py", &[case.base.model.path(), saved.path(), &ids, &out]);
        let off = distance(&read_tensors(&out)["logits"], &case.tensors["logits.0"]);
        assert!(off < LOGITS, "{}: PEFT's logits are {off} off", case.name);
    }
}

#[test]
fn bottlenecks_are_read_as_they_were_saved() {
    for case in BOTTLENECKS.map(Fixture::open) {
        let (tuning, model, store) = case.begun();
        case.check_greedy(&model);
        let saved = case.save(tuning.as_ref(), &model, &store, Precision::Storage);
        let config: Value = read_json(&saved.path().join("adapter_config.json"));
        assert_eq!((&config["peft_type"], &config["adapter_size"]), (&json!("BOTTLENECK"), &json!(4)));
        let model = case.model(case.tuning(Some(saved.path())).as_ref(), &mut Store::default());
        case.check_logits(&model);
    }
}

/// A new bottleneck changes nothing yet, and a text's embeddings stand before the sequences, repeated or cut.
#[test]
fn what_tunings_begin_with() {
    let case = Fixture::open(BOTTLENECKS[0]);
    let model = case.model(case.tuning(None).as_ref(), &mut Store::default());
    let (ids, logits) = (&case.base.expected.ids[0], &case.base.tensors["logits.0"]);
    assert!(distance(&model.logits(ids, &[ids.len()]).unwrap(), logits) < LOGITS);

    for (name, scale) in [("prompt-llama", 1.0), ("prompt-gemma3_text", 24f64.sqrt()), ("prompt-granite", 1.0)] {
        let mut case =
            Fixture::open((name, "prompt", r#"{"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "t5 t9"}"#));
        case.base.write_tokenizer();
        for (count, ids) in [(5u64, vec![5u32, 9, 5, 9, 5]), (1, vec![5])] {
            case.settings.set("num_virtual_tokens", count);
            let mut tuning = case.tuning(None);
            tuning.tokenize(&case.files().tokenizer().unwrap().tokenizer).unwrap();
            let model = case.model(tuning.as_ref(), &mut Store::default());
            let rows = model.embedding.get().index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap();
            let begun = model.virtual_tokens.as_ref().unwrap().values(None).unwrap();
            assert!(distance(&begun, &(rows * scale).unwrap()) < 1e-5, "{name}");
        }
    }
}

#[test]
fn nonsense_is_named() {
    let case = Fixture::open(VIRTUAL[0]);
    let refused = |kind: &str, settings: Value, previous: Option<&Path>, code: &str, field: &str, part: &str| {
        let config: RunConfig = serde_json::from_value(settings).unwrap();
        let begun: Result<(), Problems> = adapter(kind).unwrap().start(&config, previous).and_then(|tuning| {
            let files = case.files();
            let config = family(files.config()).unwrap().config(files.config()).unwrap();
            tuning.count(&config).map(|_| ()).map_err(|e| Problems(e.into_problems()))
        });
        let problems = begun.err().unwrap_or_else(|| panic!("{kind} accepted what is {code}"));
        let found = problems.0.iter().find(|p| p.code == code).unwrap_or_else(|| panic!("{code}: {problems:?}"));
        assert_eq!(found.field.as_deref(), Some(field), "{found:?}");
        let said = format!("{} {}", found.message, found.hint);
        assert!(said.contains(part), "{said}");
        assert!(found.zh.as_ref().is_some_and(|zh| !zh.message.is_empty()), "{found:?}");
    };
    for kind in ["prompt", "p_tuning", "prefix"] {
        refused(kind, json!({"num_virtual_tokens": 0}), None, "bad_value", "num_virtual_tokens", "1 to 4096");
        refused(kind, json!({"num_virtual_tokens": 64}), None, "too_many_virtual_tokens", "num_virtual_tokens", "64");
        refused(kind, json!({"add_tokens": "a"}), None, "untrained_tokens", "add_tokens", "lora or full");
    }
    refused(
        "prompt",
        json!({"prompt_tuning_init": "TEXT"}),
        None,
        "no_init_text",
        "prompt_tuning_init_text",
        "SAMPLE_VOCAB",
    );
    refused("prompt", json!({"prompt_tuning_init": "ZERO"}), None, "bad_value", "prompt_tuning_init", "RANDOM");
    refused(
        "p_tuning",
        json!({"encoder_reparameterization_type": "GRU"}),
        None,
        "bad_value",
        "encoder_reparameterization_type",
        "LSTM",
    );
    refused("prefix", json!({"encoder_hidden_size": 0}), None, "bad_value", "encoder_hidden_size", "1");
    refused("adapter", json!({"adapter_place": "middle"}), None, "bad_value", "adapter_place", "pfeiffer");
    refused("adapter", json!({"resize_vocab": true}), None, "untrained_tokens", "resize_vocab", "lora or full");
    let folder = case.folder.join("adapter");
    refused("prefix", json!({}), Some(&folder), "adapter_kind", "adapter_name_or_path", "PROMPT_TUNING");
    refused("adapter", json!({}), Some(&folder), "adapter_kind", "adapter_name_or_path", "PROMPT_TUNING");
    let narrower = Fixture::open(VIRTUAL[1]).folder.join("adapter");
    refused("prompt", json!({}), Some(&narrower), "adapter_for_another_model", "adapter_name_or_path", "[3, 32]");
}
