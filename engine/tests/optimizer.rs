//! Schedules, AdamW and clipping against transformers and PyTorch; `fixtures/parity/make.py` made the values.
#![allow(clippy::unwrap_used)]

mod common;

use api::params::{Schedule, TrainParams};
use candle_core::{Device, Tensor};
use common::{distance, fixtures, read_json};
use engine::{
    model::{Grads, Store},
    train::{AdamW, clip, schedule::factor},
};
use serde::Deserialize;
use std::collections::BTreeMap;

type Values = BTreeMap<String, Vec<f32>>;

#[derive(Deserialize)]
struct Schedules {
    cases: Vec<Rates>,
}

#[derive(Deserialize)]
struct Rates {
    kind: Schedule,
    steps: u64,
    warmup: u64,
    learning_rate: f64,
    rates: Vec<f64>,
}

#[test]
fn schedules_are_those_of_transformers() {
    let schedules: Schedules = read_json(&fixtures().join("schedules.json"));
    assert_eq!(schedules.cases.len(), 14);
    for case in schedules.cases {
        let (kind, peak) = (case.kind, case.learning_rate);
        assert_eq!(case.rates.len() as u64, case.steps);
        for (done, expected) in case.rates.iter().enumerate() {
            let rate = peak * factor(kind, done as u64, case.warmup, case.steps, peak);
            let warmup = case.warmup;
            assert!((rate - expected).abs() < 1e-12, "{kind:?}, warm-up {warmup}, step {done}: {rate}, not {expected}");
        }
    }
}

#[derive(Deserialize)]
struct Steps {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    shapes: BTreeMap<String, Vec<usize>>,
    start: Values,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    learning_rate: f64,
    gradients: Values,
    after: Values,
}

#[test]
fn adamw_is_that_of_pytorch() {
    let case: Steps = read_json(&fixtures().join("adamw.json"));
    let mut store = Store::default();
    for (name, values) in &case.start {
        store.add(name, tensor(values, &case.shapes[name]));
    }
    let mut optimizer = AdamW::new(&TrainParams {
        adam_beta1: case.beta1,
        adam_beta2: case.beta2,
        adam_epsilon: case.epsilon,
        weight_decay: case.weight_decay,
        ..TrainParams::default()
    });
    assert_eq!(case.steps.len(), 5);
    for (n, step) in case.steps.iter().enumerate() {
        let grads = grads(&store, &step.gradients, &case.shapes);
        optimizer.step(&store, &grads, step.learning_rate, 1.0).unwrap();
        for (name, expected) in &step.after {
            let off = distance(&store.get(name).unwrap().get(), &tensor(expected, &case.shapes[name]));
            assert!(off < 1e-6, "step {n}: {name} is off by {off}");
        }
    }
}

#[derive(Deserialize)]
struct Clips {
    shapes: BTreeMap<String, Vec<usize>>,
    gradients: Values,
    cases: Vec<Clip>,
}

#[derive(Deserialize)]
struct Clip {
    max_norm: f64,
    norm: f64,
    after: Values,
}

#[test]
fn clipping_is_that_of_pytorch() {
    let clips: Clips = read_json(&fixtures().join("clip.json"));
    let mut store = Store::default();
    for (name, values) in &clips.gradients {
        store.add(name, tensor(values, &clips.shapes[name]));
    }
    let grads = grads(&store, &clips.gradients, &clips.shapes);
    assert_eq!(clips.cases.len(), 3);
    for case in &clips.cases {
        let (norm, scale) = clip(&grads, case.max_norm).unwrap();
        assert!((norm - case.norm).abs() < 1e-5, "the norm is {norm}, not {}", case.norm);
        for (name, expected) in &case.after {
            let clipped = (grads.get(name).unwrap() * scale).unwrap();
            let off = distance(&clipped, &tensor(expected, &clips.shapes[name]));
            assert!(off < 1e-6, "to {}: {name} is off by {off}", case.max_norm);
        }
    }
    assert_eq!(clip(&grads, 0.0).unwrap().1, 1.0, "0 switches it off");
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

fn grads(store: &Store, values: &Values, shapes: &BTreeMap<String, Vec<usize>>) -> Grads {
    let mut grads = Grads::default();
    for (name, values) in values {
        grads.add(store.get(name).unwrap(), tensor(values, &shapes[name])).unwrap();
    }
    grads
}
