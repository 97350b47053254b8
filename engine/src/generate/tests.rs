//! The engine on a tiny random model: whoever joins or leaves, each answer is that of its request alone.

use super::{Answer, Engine, Request, Said, Ticket};
use crate::{
    adapters::lora::LoraTuning,
    files::ModelFiles,
    model::{Building, Model, Network, Source, Store, build, build_as, families::family},
};
use api::{chat::FinishReason, params::GenerateParams};
use candle_core::{DType, Device};
use serde_json::json;
use std::{collections::HashMap, path::Path, sync::Arc, sync::atomic::AtomicBool};

fn model() -> Model {
    let raw = json!({
        "model_type": "llama", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 900, "rms_norm_eps": 1e-5,
        "rope_theta": 100.0, "tie_word_embeddings": false, "initializer_range": 0.4
    });
    let config = family(&raw).unwrap().config(&raw).unwrap();
    build(&config, &Source::Random { seed: 3 }, &(), &mut Store::default(), &Device::Cpu, DType::F32).unwrap()
}

fn request(prompt: &[u32], seeds: &[u64], change: impl FnOnce(&mut GenerateParams)) -> Request {
    let mut params =
        GenerateParams { max_new_tokens: 20, temperature: 1.0, top_p: 1.0, top_k: 0, ..GenerateParams::default() };
    change(&mut params);
    Request {
        prompt: prompt.into(),
        model: 0,
        params: Arc::new(params),
        seeds: seeds.into(),
        eos: [7, 11].into(),
        tokenizer: None,
        surely: true,
    }
}

fn text(length: u32, first: u32) -> Vec<u32> {
    (0..length).map(|i| (first + i * 7 + i * i) % 60).collect()
}

fn alone(models: Vec<&dyn Network>, request: Request) -> Vec<Answer> {
    let mut engine = Engine::new(models).unwrap();
    engine.answer(request, &AtomicBool::new(false), &mut |_, _| {}).unwrap().0
}

/// What was said, without how sure the model was, whose last digits hang on how many rows go through it together.
fn said(answers: &[Answer]) -> Vec<(Vec<u32>, Option<u32>, FinishReason)> {
    answers.iter().map(|answer| (answer.ids.clone(), answer.eos, answer.reason)).collect()
}

/// Takes steps, and adds answers that ended to those of their requests.
fn steps(engine: &mut Engine, count: usize, ended: &mut HashMap<Ticket, Vec<Answer>>) {
    for _ in 0..count {
        for (ticket, said) in engine.step() {
            match said {
                Said::Ended(answer) => ended.entry(ticket).or_default().push(*answer),
                Said::Failed(problem) => panic!("{problem:?}"),
                Said::Text { .. } | Said::Done(_) => {}
            }
        }
    }
}

/// Requests of every kind come while others run; some are long enough to be read in pieces.
#[test]
fn whoever_joins_or_leaves_each_answer_is_that_of_its_request_alone() {
    let model = model();
    let requests = [
        request(&text(5, 1), &[1], |p| p.do_sample = false),
        request(&text(700, 2), &[2, 3], |_| {}),
        request(&text(40, 3), &[4], |p| (p.num_beams, p.do_sample) = (3, false)),
        request(&text(1, 4), &[5], |p| p.repetition_penalty = 1.3),
        request(&text(200, 5), &[6], |p| p.num_beams = 2),
        request(&text(33, 6), &[7, 8, 9], |p| (p.top_k, p.min_p) = (20, 0.05)),
    ];
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let (mut ended, mut tickets) = (HashMap::new(), Vec::new());
    for request in &requests {
        tickets.push(engine.add(request.clone()).unwrap());
        steps(&mut engine, 3, &mut ended);
    }
    while !engine.is_idle() {
        steps(&mut engine, 1, &mut ended);
    }
    for (ticket, request) in tickets.iter().zip(&requests) {
        let mut together = ended.remove(ticket).unwrap();
        together.sort_by_key(|answer| answer.index);
        let by_itself = alone(vec![&model], request.clone());
        assert_eq!(said(&together), said(&by_itself), "{:?}", request.params);
        for (a, b) in together.iter().zip(&by_itself) {
            assert!((a.confidence.unwrap_or(1.0) - b.confidence.unwrap_or(1.0)).abs() < 1e-5);
        }
    }
    assert_eq!((engine.usage().pages, engine.usage().tokens), (0, 0), "all pages are given back");
}

/// While a long prompt is read, an answer that runs gets its token at each step.
#[test]
fn long_prompts_do_not_hold_answers_up() {
    let model = model();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let forever = |p: &mut GenerateParams| (p.min_new_tokens, p.max_new_tokens) = (500, 500);
    engine.add(request(&text(5, 1), &[1], forever)).unwrap();
    engine.step();
    let (before, cached) = (engine.usage().tokens, text(800, 2));
    engine.add(request(&cached, &[2], forever)).unwrap();
    for step in 1..=6 {
        engine.step();
        assert_eq!(engine.usage().tokens, before + step + 128 * step, "a token and a piece each step");
    }
}

#[test]
fn what_has_the_same_beginning_is_read_once() {
    let model = model();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let stop = AtomicBool::new(false);
    let prompt = text(100, 9);
    let mut other = prompt.clone();
    *other.last_mut().unwrap() = 1;
    let mut ask = |prompt: &[u32]| {
        let (answers, usage) = engine.answer(request(prompt, &[1], |_| {}), &stop, &mut |_, _| {}).unwrap();
        (said(&answers), usage.cached_tokens)
    };
    let (first, none) = ask(&prompt);
    let (second, most) = ask(&prompt);
    let (third, also) = ask(&other);
    assert_eq!((none, most, also), (0, 96, 96));
    let by_itself = |prompt: &[u32]| said(&alone(vec![&model], request(prompt, &[1], |_| {})));
    assert_eq!((&first, &second), (&by_itself(&prompt), &first));
    assert_eq!(third, by_itself(&other));
}

#[test]
fn a_cancelled_request_gives_everything_back() {
    let model = model();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let forever = |p: &mut GenerateParams| (p.min_new_tokens, p.max_new_tokens) = (500, 500);
    let tickets = [
        engine.add(request(&text(5, 1), &[1, 2], forever)).unwrap(),
        engine.add(request(&text(9, 1), &[3], |p| p.num_beams = 4)).unwrap(),
        engine.add(request(&text(600, 1), &[4], forever)).unwrap(),
    ];
    engine.step();
    engine.step();
    for (ticket, count) in tickets.into_iter().zip([2, 1, 1]) {
        let said = engine.cancel(ticket);
        let cancelled = said.iter().filter(|s| matches!(s, Said::Ended(a) if a.reason == FinishReason::Cancelled));
        assert_eq!(cancelled.count(), count);
        assert!(matches!(said.last(), Some(Said::Done(_))));
        assert!(engine.cancel(ticket).is_empty());
    }
    assert!(engine.is_idle());
    assert_eq!(engine.usage().pages, 0);
}

/// More than go together wait, the most important first.
#[test]
fn higher_priorities_go_first() {
    let model = model();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let full: Vec<u64> = (0..64).collect();
    engine.add(request(&text(5, 1), &full, |p| p.max_new_tokens = 4)).unwrap();
    engine.step();
    let mut with =
        |priority| engine.add(request(&text(4, 2), &full, |p| (p.max_new_tokens, p.priority) = (1, priority))).unwrap();
    let (low, high, same) = (with(-1), with(5), with(5));
    let mut order = Vec::new();
    while !engine.is_idle() {
        let done = engine.step().into_iter().filter(|(_, said)| matches!(said, Said::Done(_)));
        order.extend(done.map(|(ticket, _)| ticket));
    }
    assert_eq!(order[1..], [high, same, low]);
}

/// A base and an adapter on it answer side by side, with the base's weights in memory once.
#[test]
fn an_adapter_and_its_base_answer_at_the_same_time() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama");
    let files = ModelFiles::open(&folder).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    let mut store = Store::default();
    let base = build(&config, &Source::Files(&files), &(), &mut store, &Device::Cpu, DType::F32).unwrap();
    let tuning = LoraTuning::read(&folder.join("adapter")).unwrap();
    let how = Building::new(Source::Model(&base), &tuning, &Device::Cpu, DType::F32);
    let tuned = build_as(&config, &how, &mut Store::default()).unwrap();
    let shared = |a: &Model, b: &Model| {
        let [a, b] = [a, b].map(|m| m.layers[0].linears()[0].weight.get());
        std::ptr::eq(&*a.storage_and_layout().0, &*b.storage_and_layout().0)
    };
    assert!(shared(&base, &tuned), "the weights are in memory twice");

    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let mut engine = Engine::new(vec![&base as &dyn Network, &tuned]).unwrap();
    let mut asked = Vec::new();
    for (i, prompt) in expected["ids"].as_array().unwrap().iter().enumerate() {
        let prompt: Vec<u32> = serde_json::from_value(prompt.clone()).unwrap();
        for (model, key) in ["greedy", "lora_greedy"].into_iter().enumerate() {
            let plain = request(&prompt, &[0], |p| (p.do_sample, p.max_new_tokens) = (false, 12));
            let ticket = engine.add(Request { model, eos: [].into(), ..plain }).unwrap();
            asked.push((ticket, serde_json::from_value::<Vec<u32>>(expected[key][i].clone()).unwrap()));
        }
    }
    let mut ended = HashMap::new();
    while !engine.is_idle() {
        steps(&mut engine, 1, &mut ended);
    }
    for (ticket, expected) in asked {
        assert_eq!(ended[&ticket][0].ids, expected);
    }
}

#[test]
fn what_can_not_be_answered_is_refused_with_a_reason() {
    let model = model();
    let mut engine = Engine::new(vec![&model as &dyn Network]).unwrap();
    let mut refused = |request| engine.add(request).unwrap_err().into_problem().code;
    assert_eq!(refused(request(&[], &[1], |_| {})), "prompt_length");
    assert_eq!(refused(request(&text(900, 1), &[1], |_| {})), "prompt_length");
    assert_eq!(refused(request(&text(9, 1), &[1], |p| p.max_length = Some(9))), "no_room");
    assert_eq!(
        refused(request(&text(9, 1), &[1], |p| (p.num_beams, p.num_return_sequences) = (2, 3))),
        "too_many_answers"
    );
    assert!(engine.is_idle());
}
