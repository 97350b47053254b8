//! Decoding against transformers: greedy and by beams, with penalties, n-grams, lengths and forbidden words. What is expected
//! of the tiny model and the program that made it are in `fixtures/decoding`; with `LATHE_ORACLES`, twenty prompts of SmolLM2.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    RunConfig,
    params::{self, ComputeType, GenerateParams, ModelParams},
};
use common::{Oracle, read_json};
use engine::{
    Places,
    generate::{Answer, Engine, Request},
    loaded::Loaded,
    model::Network,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};
use tokenizers::Tokenizer;

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    eos: Vec<u32>,
    most: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: Value,
    answers: Vec<Vec<Vec<u32>>>,
}

/// The settings of a case, with nothing drawn.
fn params(settings: &Value, most: usize) -> GenerateParams {
    let mut config: RunConfig = serde_json::from_value(settings.clone()).unwrap();
    config.set("do_sample", false);
    config.set("max_new_tokens", most as u64);
    params::read(&config).unwrap()
}

fn said(engine: &mut Engine, request: Request) -> Vec<Answer> {
    engine.answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0
}

/// A word for each id: `t0`, `t1` ….
fn words(count: usize) -> Arc<Tokenizer> {
    let vocab: serde_json::Map<_, _> = (0..count).map(|i| (format!("t{i}"), i.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"},
    });
    Arc::new(tokenizer.to_string().parse().unwrap())
}

#[test]
fn a_tiny_model_says_what_it_says_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoding");
    let expected: Expected = read_json(&folder.join("expected.json"));
    let files = engine::files::ModelFiles::open(&folder).unwrap();
    let config = engine::model::families::family(files.config()).unwrap().config(files.config()).unwrap();
    let (source, mut store) = (engine::model::Source::Files(&files), engine::model::Store::default());
    let (device, dtype) = (candle_core::Device::Cpu, candle_core::DType::F32);
    let model = engine::model::build(&config, &source, &(), &mut store, &device, dtype).unwrap();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    for case in &expected.cases {
        for (prompt, answers) in expected.prompts.iter().zip(&case.answers) {
            let params = params(&case.settings, expected.most);
            let request = Request {
                prompt: prompt.clone(),
                model: 0,
                params: Arc::new(params),
                seeds: vec![0],
                eos: expected.eos.as_slice().into(),
                tokenizer: Some(words(40)),
                surely: false,
            };
            let found = said(&mut engine, request).into_iter().map(|a| a.ids.into_iter().chain(a.eos).collect());
            assert_eq!(&found.collect::<Vec<Vec<u32>>>(), answers, "{}, {prompt:?}", case.settings);
        }
    }
}

/// Slow, so it waits for an environment that has transformers and SmolLM2.
#[test]
fn smollm2_says_what_it_says_in_transformers() {
    let Some(oracle) = Oracle::open("smollm2_says_what_it_says_in_transformers") else { return };
    let folder = oracle.path("smollm2-f32");
    let places = Places { home: oracle.work.path().into(), hub_cache: oracle.work.path().join("hub") };
    let named = ModelParams { model_name_or_path: folder.display().to_string(), ..ModelParams::default() };
    let loaded = Loaded::open(&named, &places, ComputeType::Fp32).unwrap();
    let prompts: Vec<Vec<u32>> = PROMPTS
        .iter()
        .map(|text| loaded.encoder.prompt(&[api::data::Message::new("user", *text)], None).unwrap())
        .collect();
    let settings = [
        json!({}),
        json!({"num_beams": 4, "early_stopping": true, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2}),
        json!({"min_length": 80}),
    ];
    let most = 32;
    let task = oracle.write_json("task.json", &json!({"prompts": prompts, "settings": settings}));
    let theirs = oracle.ask("decoding.py", &[&folder, Path::new("32"), &task]);
    let mut engine = loaded.engine().unwrap();
    let mut equal = 0;
    for (settings, theirs) in settings.iter().zip(theirs.as_array().unwrap()) {
        for ((prompt, text), theirs) in prompts.iter().zip(PROMPTS).zip(theirs.as_array().unwrap()) {
            let request = loaded.request(prompt.clone(), params(settings, most));
            // Only what transformers takes for an end.
            let request = Request { eos: [2u32].into(), ..request };
            let ours = said(&mut engine, request).remove(0);
            println!("{settings} {text}: {}", ours.text);
            assert_eq!(json!(ours.ids), *theirs, "{settings} {text}");
            equal += 1;
        }
    }
    println!("{equal} answers are equal token for token");
}

const PROMPTS: [&str; 20] = [
    "What is the capital of France?",
    "Name three colours.",
    "Write a sentence about the sea.",
    "How many days are in a week?",
    "Explain photosynthesis in one sentence.",
    "What is 12 plus 30?",
    "Translate 'good morning' into Spanish.",
    "Give me a recipe for tea.",
    "Who wrote Hamlet?",
    "What do bees make?",
    "Tell me a short story about a dog.",
    "List the planets of the solar system.",
    "Why is the sky blue?",
    "Write a Python function that adds two numbers.",
    "What is the opposite of hot?",
    "Describe a mountain.",
    "How do I boil an egg?",
    "What is gravity?",
    "Write a haiku about autumn.",
    "Say hello to Anna.",
];
