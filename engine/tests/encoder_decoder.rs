//! T5 and mT5 against transformers and PEFT on tiny models: logits, loss, gradients of everything and of LoRA, buckets,
//! greedy text and beams. The expected values and the program that made them are in `fixtures/encoder_decoder`.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    RunConfig,
    params::{self, GenerateParams},
};
use candle_core::{DType, Device, Tensor};
use common::{distance, read_json, read_tensors, relative_distance};
use engine::{
    adapters::lora::LoraTuning,
    files::ModelFiles,
    generate::{Engine, Request, Said},
    model::{
        Attach, Grads, Layout, Network, Parameter, Store, Weights,
        encoder_decoder::{Bias, EncoderDecoder, EncoderDecoderConfig, Pairs},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Largest difference of a logit; the logits are about 10.
const LOGITS: f32 = 1e-4;
const LOSS: f64 = 1e-5;
const GRADIENT: f32 = 1e-5;

#[derive(Deserialize)]
struct Expected {
    pairs: Vec<(Vec<u32>, Vec<u32>)>,
    loss: f64,
    lora_loss: f64,
    buckets: [Vec<u32>; 2],
    texts: Vec<Texts>,
}

#[derive(Deserialize)]
struct Texts {
    search: Value,
    most: usize,
    ids: Vec<Vec<u32>>,
}

struct Case {
    folder: PathBuf,
    expected: Expected,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn all() -> [Self; 2] {
        ["t5", "mt5"].map(|name| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder_decoder").join(name);
            let expected = read_json(&folder.join("expected.json"));
            let tensors = read_tensors(&folder.join("expected.safetensors"));
            Self { folder, expected, tensors }
        })
    }

    fn open(&self, attach: &dyn Attach, store: &mut Store) -> EncoderDecoder {
        let files = ModelFiles::open(&self.folder).unwrap();
        EncoderDecoder::open(&files, attach, store, &Device::Cpu, DType::F32).unwrap()
    }

    fn pairs(&self) -> Pairs {
        Pairs::new(self.expected.pairs.iter().map(|(source, target)| (source.as_slice(), target.as_slice())))
    }

    fn check_logits(&self, model: &EncoderDecoder, prefix: &str) {
        let (logits, mut start) = (model.logits(&self.pairs()).unwrap(), 0);
        for (n, (_, target)) in self.expected.pairs.iter().enumerate() {
            let own = logits.narrow(0, start, target.len()).unwrap();
            let off = distance(&own, &self.tensors[&format!("{prefix}logits.{n}")]);
            assert!(off < LOGITS, "{}: logits of pair {n} are {off} off", self.folder.display());
            start += target.len();
        }
    }

    /// Loss and every gradient.
    fn check_learning(&self, model: &EncoderDecoder, store: &Store, prefix: &str, expected: f64) {
        let (pairs, mut grads) = (self.pairs(), Grads::default());
        let count = pairs.targets.len() as f64;
        let loss = model.learn(&pairs, 1.0 / count as f32, 0, &mut grads).unwrap() / count;
        assert!((loss - expected).abs() < LOSS * expected, "the loss is {loss}, not {expected}");
        assert!((model.loss(&pairs, Weights::Tuned).unwrap() / count - loss).abs() < LOSS * loss);
        let known = self.tensors.keys().filter(|name| name.starts_with(&format!("{prefix}grad."))).count();
        assert_eq!((grads.iter().count(), store.trainable().count()), (known, known));
        for (name, gradient) in grads.iter() {
            let off = relative_distance(gradient, &self.tensors[&format!("{prefix}grad.{name}")]);
            assert!(off < GRADIENT, "{}: the gradient of {name} is off by {off}", self.folder.display());
        }
    }
}

struct Full;

impl Attach for Full {
    fn trains(&self, _: &str) -> bool {
        true
    }
}

#[test]
fn everything_trained() {
    for case in Case::all() {
        let mut store = Store::default();
        let model = case.open(&Full, &mut store);
        case.check_logits(&model, "");
        case.check_learning(&model, &store, "", case.expected.loss);
    }
}

#[test]
fn lora_of_peft_on_decoder_and_cross_attention() {
    for case in Case::all() {
        let (tuning, mut store) = (LoraTuning::read(&case.folder.join("adapter")).unwrap(), Store::default());
        let model = case.open(&tuning, &mut store);
        assert_eq!(model.linears().filter(|(_, linear)| linear.branch.is_some()).count(), 2 * 2 * 2);
        case.check_logits(&model, "lora.");
        case.check_learning(&model, &store, "lora.", case.expected.lora_loss);
        let (pairs, plain) = (case.pairs(), case.open(&(), &mut Store::default()));
        let [base, alone] = [&model, &plain].map(|m| m.loss(&pairs, Weights::Base).unwrap());
        assert_eq!(base, alone);
    }
}

#[test]
fn texts_by_the_likeliest_token_and_by_beams() {
    for case in Case::all() {
        let model = case.open(&(), &mut Store::default());
        for Texts { search, most, ids } in &case.expected.texts {
            let mut config = RunConfig::default();
            config.set("do_sample", false);
            config.set("max_new_tokens", *most as u64);
            search.as_object().unwrap().iter().for_each(|(key, value)| config.set(key, value.clone()));
            let params: Arc<GenerateParams> = Arc::new(params::read(&config).unwrap());
            let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
            // All sources together, as they come to a server.
            let requests = case.expected.pairs.iter().map(|(source, _)| Request {
                prompt: source.clone(),
                model: 0,
                params: params.clone(),
                seeds: vec![0],
                eos: model.config.eos.as_slice().into(),
                tokenizer: None,
                surely: false,
            });
            let tickets: Vec<_> = requests.map(|request| engine.add(request).unwrap()).collect();
            let mut said = HashMap::new();
            while !engine.is_idle() {
                for (ticket, heard) in engine.step() {
                    match heard {
                        Said::Ended(answer) => {
                            drop(said.insert(ticket, answer.ids.into_iter().chain(answer.eos).collect()))
                        }
                        Said::Failed(problem) => panic!("{problem:?}"),
                        Said::Text { .. } | Said::Done(_) => {}
                    }
                }
            }
            let said: Vec<Vec<u32>> = tickets.iter().map(|ticket| said.remove(ticket).unwrap()).collect();
            assert_eq!(&said, ids, "{}, {search}", case.folder.display());
        }
    }
}

#[test]
fn the_layout_has_every_tensor_of_the_files() {
    for case in Case::all() {
        let files = ModelFiles::open(&case.folder).unwrap();
        let config = EncoderDecoderConfig::of(&files, files.config()).unwrap();
        let mut tensors = config.tensors();
        tensors.sort();
        let count = |name: &str| (name.to_string(), files.shape(name).unwrap().iter().product::<usize>() as u64);
        let stored: Vec<_> = files.names().map(count).collect();
        assert_eq!(tensors, stored);
        let model = case.open(&(), &mut Store::default());
        let mut names: Vec<String> = Network::parameters(&model).iter().map(|p| p.name.clone()).collect();
        names.sort();
        assert_eq!(names, tensors.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        let linears: Vec<String> = model.linears().map(|(name, _)| name).collect();
        assert_eq!(linears, config.linears().into_iter().map(|linear| linear.name).collect::<Vec<_>>());
    }
}

#[test]
fn buckets_of_relative_positions() {
    let [case, _] = Case::all();
    for (both_ways, expected) in [true, false].into_iter().zip(&case.expected.buckets) {
        let table = Parameter::new("table", Tensor::zeros((8, 1), DType::F32, &Device::Cpu).unwrap(), false);
        let bias = Bias { table, max_distance: 20, both_ways };
        let ours: Vec<u32> = (-40..=40).map(|distance| bias.bucket(distance, 8)).collect();
        assert_eq!(&ours, expected, "both ways: {both_ways}");
    }
}

#[test]
fn version_1_1_and_what_is_no_t5() {
    let read = |config: Value| EncoderDecoderConfig::read(&config);
    let sizes =
        json!({"model_type": "t5", "d_model": 16, "d_ff": 20, "num_layers": 2, "num_heads": 3, "vocab_size": 48});
    let with = |more: Value| {
        let mut config = sizes.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let first = read(sizes.clone()).unwrap();
    assert_eq!((first.gated, first.head_scale, first.head_dim, first.decoder_layers), (false, 0.25, 64, 2));
    let later = read(with(json!({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}))).unwrap();
    assert_eq!((later.gated, later.head_scale), (true, 1.0));
    for (change, part) in [
        (json!({"model_type": "bart"}), "bart"),
        (json!({"feed_forward_proj": "gated-tanh"}), "gated-tanh"),
        (json!({"d_model": 0}), "d_model"),
        (json!({"relative_attention_num_buckets": 1}), "num_buckets"),
    ] {
        let problem = read(with(change)).unwrap_err().into_problem();
        assert!(problem.message.contains(part), "{}", problem.message);
        assert!(problem.zh.is_some());
    }
}
