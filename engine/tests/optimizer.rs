//! Schedules, optimizers and clipping against transformers, PyTorch and the references of each method;
//! `fixtures/parity/make.py` and `fixtures/optimizers/make.py` made the values.
#![allow(clippy::unwrap_used)]

mod common;

use api::params::{self, ApolloScale, OptimizerParams, Schedule, TrainParams};
use candle_core::{Device, Tensor};
use common::{distance, fixtures, read_json};
use engine::{
    model::{Grads, Store},
    random::Random,
    train::{
        AdamW, Optimizer, clip, optimizers,
        schedule::{Shape, factor},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

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
            let rate = peak * factor(kind, &Shape::default(), done as u64, case.warmup, case.steps, peak);
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

/// `fixtures/optimizers/expected.json`.
#[derive(Deserialize)]
struct References {
    cases: BTreeMap<String, Reference>,
    large: Vec<Vec<f32>>,
    schedules: Vec<Shaped>,
}

#[derive(Deserialize)]
struct Reference {
    shapes: BTreeMap<String, Vec<usize>>,
    start: Values,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Shaped {
    arguments: Value,
    #[serde(flatten)]
    rates: Rates,
}

fn references() -> References {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizers/expected.json"))
}

/// The settings of `fixtures/optimizers/make.py` for the optimizer of a case.
fn settings(case: &str) -> (TrainParams, OptimizerParams) {
    let (name, more) = case.split_once(", ").unwrap_or((case, ""));
    let train = TrainParams {
        optim: serde_json::from_value(name.into()).unwrap(),
        weight_decay: 0.1,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        ..TrainParams::default()
    };
    let front = more.contains("front");
    let more = OptimizerParams {
        optim_momentum: (name == "sgd").then_some(0.9),
        galore_rank: 2,
        galore_update_interval: 3,
        apollo_rank: 2,
        apollo_update_interval: 3,
        apollo_scale_front: front,
        apollo_scale_type: if more.contains("tensor") { ApolloScale::Tensor } else { ApolloScale::Channel },
        ..OptimizerParams::default()
    };
    (train, more)
}

#[test]
fn optimizers_are_their_references() {
    for (name, case) in references().cases {
        let (train, more) = settings(&name);
        let mut store = Store::default();
        for (name, values) in &case.start {
            store.add(name, tensor(values, &case.shapes[name]));
        }
        let mut optimizer = optimizers::start(&train, &more).unwrap();
        assert_eq!(case.steps.len(), 5);
        for (n, step) in case.steps.iter().enumerate() {
            // Halved gradients with twice the scale are the same gradients.
            let halved: Values =
                step.gradients.iter().map(|(k, v)| (k.clone(), v.iter().map(|g| g / 2.0).collect())).collect();
            let grads = grads(&store, &halved, &case.shapes);
            optimizer.step(&store, &grads, step.learning_rate, 2.0).unwrap();
            for (parameter, expected) in &step.after {
                let off = distance(&store.get(parameter).unwrap().get(), &tensor(expected, &case.shapes[parameter]));
                assert!(off < 5e-6, "{name}, step {n}: {parameter} is off by {off}");
            }
        }
    }
}

#[test]
fn moments_in_8_bits_are_those_of_bitsandbytes() {
    let uniform = |stream| -> Vec<f32> {
        let mut random = Random::new(3, stream);
        (0..4120).map(|_| (random.uniform() - 0.5) as f32).collect()
    };
    let mut store = Store::default();
    store.add("a", tensor(&uniform(0), &[4, 1030]));
    let (train, more) = settings("adamw_8bit");
    let mut optimizer = optimizers::start(&train, &more).unwrap();
    for (n, expected) in references().large.iter().enumerate() {
        let mut grads = Grads::default();
        let gradient: Vec<f32> = uniform(n as u64 + 1).into_iter().map(|g| g.powi(5)).collect();
        grads.add(store.get("a").unwrap(), tensor(&gradient, &[4, 1030])).unwrap();
        optimizer.step(&store, &grads, [1e-2, 8e-3, 6e-3, 4e-3, 2e-3][n], 1.0).unwrap();
        let values = common::values(&store.get("a").unwrap().get());
        for (i, expected) in expected.iter().enumerate() {
            let off = (values[40 * i] - expected).abs();
            assert!(off < 1e-5, "step {n}: value {} is off by {off}", 40 * i);
        }
    }
    let bytes: usize = optimizer.state().values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    assert!(bytes < 4120 * 8 / 3, "{bytes}");
}

/// Of every optimizer: what comes after a step depends on nothing but the state that is saved, and it learns.
#[test]
fn every_optimizer_goes_on_from_its_state() {
    let names =
        ["model.embed_tokens.weight", "model.layers.0.q.weight", "model.layers.1.q.weight", "model.norm.weight"];
    for entry in optimizers::OPTIMIZERS {
        let what = format!("{:?}", entry.optim);
        let train = TrainParams { optim: entry.optim, weight_decay: 0.01, ..TrainParams::default() };
        let more = OptimizerParams {
            galore_rank: 2,
            galore_update_interval: 4,
            apollo_rank: 2,
            apollo_update_interval: 4,
            badam_switch_interval: 4,
            ..OptimizerParams::default()
        };
        let mut random = Random::new(5, 0);
        let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| random.normal()).collect() };
        let start: Vec<Vec<f32>> = names.iter().map(|_| values(64 * 70)).collect();
        let fresh = || {
            let mut store = Store::default();
            for (name, values) in names.iter().zip(&start) {
                let dims: &[usize] = if name.contains("norm") { &[4480] } else { &[64, 70] };
                store.add(*name, tensor(values, dims));
            }
            store
        };
        // Half the sum of squares: its gradient is the value itself.
        let descend = |store: &Store, optimizer: &mut dyn Optimizer, steps: usize| {
            for _ in 0..steps {
                let mut grads = Grads::default();
                store.trainable().for_each(|p| grads.add(p, p.get().copy().unwrap()).unwrap());
                optimizer.step(store, &grads, 0.01, 0.5).unwrap();
            }
        };
        let (whole, broken) = (fresh(), fresh());
        let mut unbroken = optimizers::start(&train, &more).unwrap();
        descend(&whole, unbroken.as_mut(), 10);
        let mut first = optimizers::start(&train, &more).unwrap();
        descend(&broken, first.as_mut(), 6);
        let saved: HashMap<String, Tensor> = first.state().into_iter().map(|(k, t)| (k, t.copy().unwrap())).collect();
        let mut second = optimizers::start(&train, &more).unwrap();
        second.restore(&broken, saved.clone(), 6).unwrap();
        descend(&broken, second.as_mut(), 4);
        let mut moved = 0;
        for ((a, b), start) in whole.trainable().zip(broken.trainable()).zip(&start) {
            assert_eq!(common::values(&a.get()), common::values(&b.get()), "{what}: {}", a.name);
            let size = |v: &[f32]| v.iter().map(|x| f64::from(x * x)).sum::<f64>();
            moved += usize::from(size(&common::values(&a.get())) < size(start));
        }
        // BAdam moves layers alone.
        assert!(moved == names.len() || (entry.optim == params::Optimizer::Badam && moved == 2), "{what}: {moved}");
        // A state of other shapes is refused.
        let (mut other, mut small) = (optimizers::start(&train, &more).unwrap(), Store::default());
        small.add(names[1], tensor(&[1.0; 6], &[2, 3]));
        let wrong = saved.is_empty() || other.restore(&small, saved, 6).is_err();
        assert!(wrong, "{what} took a state of another model");
    }
}

#[test]
fn a_parameter_may_have_a_learning_rate_of_its_own() {
    for entry in optimizers::OPTIMIZERS {
        let train = TrainParams { optim: entry.optim, ..TrainParams::default() };
        let mut store = Store::default();
        for name in ["layers.0.a.weight", "layers.0.b.weight"] {
            store.add(name, tensor(&[1.0, 2.0, -3.0, 0.5], &[2, 2]));
        }
        store.set_factors(|p| if p.name == "layers.0.b.weight" { 4.0 } else { 1.0 });
        let mut grads = Grads::default();
        store.trainable().for_each(|p| grads.add(p, tensor(&[0.3, -0.1, 0.2, 0.7], &[2, 2])).unwrap());
        let seeded = OptimizerParams { galore_rank: 2, apollo_scale: 1.0, ..OptimizerParams::default() };
        optimizers::start(&train, &seeded).unwrap().step(&store, &grads, 1e-2, 1.0).unwrap();
        let start = tensor(&[1.0, 2.0, -3.0, 0.5], &[2, 2]);
        let step = |name: &str| (store.get(name).unwrap().get() - &start).unwrap();
        let (once, four) = (step("layers.0.a.weight"), step("layers.0.b.weight"));
        // APOLLO's projections differ by name.
        if entry.optim != params::Optimizer::Apollo {
            assert!(distance(&(once * 4.0).unwrap(), &four) < 1e-5, "{:?}", entry.optim);
        }
    }
}

#[test]
fn schedules_take_the_arguments_of_transformers() {
    let schedules = references().schedules;
    assert_eq!(schedules.len(), 18);
    for Shaped { arguments, rates: case } in schedules {
        let train = TrainParams { lr_scheduler_type: case.kind, ..TrainParams::default() };
        let more = |kwargs: Value| OptimizerParams { lr_scheduler_kwargs: Some(kwargs), ..OptimizerParams::default() };
        // As an object, and as the text of one.
        let shape = Shape::read(&train, &more(arguments.clone())).unwrap();
        assert_eq!(shape, Shape::read(&train, &more(arguments.to_string().into())).unwrap());
        for (done, expected) in case.rates.iter().enumerate() {
            let peak = case.learning_rate;
            let rate = peak * factor(case.kind, &shape, done as u64, case.warmup, case.steps, peak);
            let kind = case.kind;
            assert!((rate - expected).abs() < 1e-12, "{kind:?} {arguments}, step {done}: {rate}, not {expected}");
        }
        for wrong in [json!({"numcycles": 1}), json!([1]), json!("{"), json!({"num_decay_steps": -3})] {
            let problem = Shape::read(&train, &more(wrong)).unwrap_err().into_problem();
            assert_eq!(problem.field.as_deref(), Some("lr_scheduler_kwargs"));
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
