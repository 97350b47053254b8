//! Decoding against transformers: greedy and by beams, with penalties, n-grams, lengths and forbidden words. What is expected
//! of the tiny model and the program that made it are in `fixtures/decoding`; with `LATHE_ORACLES`, twenty prompts of SmolLM2.
#![allow(clippy::unwrap_used)]

mod common;

use api::{
    RunConfig,
    chat::FinishReason,
    params::{self, ComputeType, GenerateParams, ModelParams},
};
use common::{Oracle, read_json};
use engine::{
    Places,
    generate::{Answer, Engine, Request, Said},
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

/// The starter model with its own tokenizer.
fn starter() -> Loaded {
    let home = std::env::temp_dir();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/starter");
    let named = ModelParams { model_name_or_path: folder.display().to_string(), ..ModelParams::default() };
    Loaded::open(&named, &Places { home: home.clone(), hub_cache: home }, ComputeType::Fp32).unwrap()
}

fn ask(loaded: &Loaded, settings: Value) -> engine::Result<(Vec<Said>, String)> {
    let mut config: RunConfig = serde_json::from_value(settings).unwrap();
    if config.get("max_new_tokens").is_none() {
        config.set("max_new_tokens", 24u64);
    }
    let request = loaded.completion("Tell me something.", params::read(&config).unwrap())?;
    let mut engine = loaded.engine()?;
    engine.add(request)?;
    let (mut said, mut text) = (Vec::new(), String::new());
    while !engine.is_idle() {
        for (_, one) in engine.step() {
            if let Said::Text { text: new, index: 0, .. } = &one {
                text += new;
            }
            said.push(one);
        }
    }
    Ok((said, text))
}

#[test]
fn answers_have_the_format_that_was_asked_for() {
    let loaded = starter();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "colour", "sizes"],
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "colour": {"enum": ["red", "green"]},
            "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3}
        }
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}});
    for seed in 0..6 {
        let settings = json!({"response_format": format, "seed": seed, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 200});
        let (said, text) = ask(&loaded, settings).unwrap();
        let ended = said.iter().any(|s| matches!(s, Said::Ended(a) if a.reason == FinishReason::Stop));
        assert!(ended, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!(["red", "green"].contains(&value["colour"].as_str().unwrap()), "{text}");
        assert!(value["sizes"].as_array().unwrap().iter().all(|size| size.as_u64().unwrap() < 100), "{text}");
    }
    let (_, text) = ask(&loaded, json!({"response_format": {"type": "json_object"}, "do_sample": false})).unwrap();
    assert!(text.starts_with('{'), "{text}");
    let refused = |format: Value| ask(&loaded, json!({"response_format": format})).unwrap_err().into_problem().code;
    assert_eq!(refused(json!({"type": "xml"})), "bad_format");
    assert_eq!(refused(json!({"type": "json_schema"})), "bad_format");
    let wrong = json!({"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}});
    assert_eq!(refused(wrong), "bad_schema");
}

#[test]
fn probabilities_are_told_and_stop_texts_end_an_answer() {
    let loaded = starter();
    let (said, whole) = ask(&loaded, json!({"do_sample": false, "logprobs": 3, "min_new_tokens": 16})).unwrap();
    let mut tokens = Vec::new();
    for one in &said {
        if let Said::Text { logprobs, .. } = one {
            tokens.extend(logprobs.clone());
        }
    }
    let Some(Said::Ended(answer)) = said.iter().find(|s| matches!(s, Said::Ended(_))) else { panic!("no end") };
    assert!(tokens.len() == answer.ids.len() && tokens.len() >= 16, "{} tokens", tokens.len());
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.token.bytes.clone()).collect();
    // A special token has a name but no text.
    assert_eq!(String::from_utf8(bytes).unwrap().replace("<|im_start|>", ""), whole, "the tokens are the text");
    for token in &tokens {
        assert_eq!(token.top.len(), 3);
        // The likeliest was said, or the next where the end was not allowed yet.
        assert!(token.top[..2].contains(&token.token), "{token:?}");
        assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob) && token.token.logprob <= 0.0);
    }
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(4).collect();
    let (said, text) = ask(&loaded, json!({"do_sample": false, "stop": [middle], "min_new_tokens": 16})).unwrap();
    assert_eq!(text, whole.split(middle.as_str()).next().unwrap());
    assert!(said.iter().any(|s| matches!(s, Said::Ended(a) if a.reason == FinishReason::Stop)));
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
