//! Losses, rewards and gradients against TRL's; the expected values and the program that made them are
//! `tests/fixtures/parity/preferences.*`.

use super::{
    Found, Objective,
    dpo::{DpoParams, Preference},
    kto::{KtoParams, Marked},
    reference::Reference,
    rm::Pairwise,
    value_head::ValueHead,
};
use crate::{
    adapters::lora::LoraTuning,
    files::ModelFiles,
    model::{Batch, Grads, Model, Source, Store, build, families::family},
};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

#[derive(Deserialize)]
struct Fixture {
    ids: Vec<Vec<u32>>,
    prompts: Vec<usize>,
    margins: Vec<f32>,
    cases: BTreeMap<String, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    settings: Value,
    loss: f64,
    rewards: Vec<f64>,
    kl: Option<f64>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

fn fixture() -> (Fixture, HashMap<String, Tensor>) {
    let text = std::fs::read_to_string(folder().join("preferences.json")).unwrap();
    let tensors = candle_core::safetensors::load(folder().join("preferences.safetensors"), &Device::Cpu).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

/// The policy: a tiny model with an adapter.
fn policy() -> (Model, Store) {
    let files = ModelFiles::open(folder().join("llama")).unwrap();
    let config = family(files.config()).unwrap().config(files.config()).unwrap();
    let tuning = LoraTuning::read(&folder().join("llama/adapter")).unwrap();
    let mut store = Store::default();
    let model = build(&config, &Source::Files(&files), &tuning, &mut store, &Device::Cpu, DType::F32).unwrap();
    (model, store)
}

fn batch(fixture: &Fixture, marks: Vec<f32>) -> Batch {
    let trained = fixture
        .ids
        .iter()
        .zip(&fixture.prompts)
        .map(|(ids, prompt)| -> Vec<bool> { (0..ids.len()).map(|i| i >= *prompt).collect() });
    let trained: Vec<Vec<bool>> = trained.collect();
    let sequences = fixture.ids.iter().zip(&trained).map(|(ids, trained)| (ids.as_slice(), trained.as_slice()));
    Batch { marks, ..Batch::new(sequences) }
}

fn near(what: &str, found: f64, expected: f64) {
    near_by(what, found, expected, expected);
}

/// The same for a difference, whose error is that of its parts of about this `size`.
fn near_by(what: &str, found: f64, expected: f64, size: f64) {
    assert!((found - expected).abs() <= 1e-5 * size.abs().max(1e-3), "{what} is {found}, not {expected}");
}

fn check(
    name: &str,
    objective: &mut dyn Objective,
    batch: &Batch,
    expected: &Expected,
    tensors: &HashMap<String, Tensor>,
) {
    let (model, _) = policy();
    let mut grads = Grads::default();
    let found = objective.loss(&model, batch, 0.5, 1, &mut grads).unwrap();
    near(&format!("the loss of {name}"), found.loss / 2.0, expected.loss);
    let mut values: BTreeMap<String, f64> = found.metrics.means().map(|(name, mean)| (name.into(), mean)).collect();
    objective.conclude(&mut values);
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let every = |from: usize| expected.rewards.iter().skip(from).step_by(2).copied().collect::<Vec<f64>>();
    let (chosen, rejected) = (every(0), every(1));
    let ahead = chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count() as f64 / chosen.len() as f64;
    match name {
        "rm" => {
            near("mean_reward", values["mean_reward"], mean(&expected.rewards));
            near_by("margin", values["margin"], mean(&chosen) - mean(&rejected), mean(&chosen));
            near("accuracy", values["accuracy"], ahead);
        }
        _ => {
            near(&format!("rewards/chosen of {name}"), values["rewards/chosen"], mean(&chosen));
            near(&format!("rewards/rejected of {name}"), values["rewards/rejected"], mean(&rejected));
            let margin = mean(&chosen) - mean(&rejected);
            near_by(&format!("rewards/margins of {name}"), values["rewards/margins"], margin, mean(&chosen));
        }
    }
    if let Some(kl) = expected.kl {
        near("kl", values["kl"], kl);
    } else if name != "rm" {
        near("rewards/accuracies", values["rewards/accuracies"], ahead);
    }
    let own: Vec<_> = tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix(&format!("{name}/"))?, t))).collect();
    assert!(own.len() >= 2, "{name}");
    for (key, expected) in own {
        let gradient = grads.get(&key.replace("head.", "v_head.summary.")).unwrap_or_else(|| panic!("{name}: {key}"));
        let size = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let off = size(&(gradient.reshape(expected.shape()).unwrap() - expected).unwrap()) / size(expected).max(1e-6);
        assert!(off < 1e-5, "{name}: the gradient of {key} is off by {off} of its norm");
    }
    // Validation measures the same.
    let again: Found = objective.evaluate(&model, batch).unwrap();
    near(&format!("the evaluated loss of {name}"), again.loss, found.loss);
}

#[test]
fn preference_losses_are_those_of_trl() {
    let (fixture, tensors) = fixture();
    let pairs = fixture.cases.iter().filter(|(_, case)| case.settings.get("pref_loss").is_some());
    assert_eq!(pairs.clone().count(), 8);
    for (name, expected) in pairs {
        let params: DpoParams = serde_json::from_value(expected.settings.clone()).unwrap();
        let reference = params.has_reference().then_some(Reference::Base);
        check(name, &mut Preference { params, reference }, &batch(&fixture, vec![0.0; 4]), expected, &tensors);
    }
}

#[test]
fn the_loss_of_marked_answers_is_that_of_trl() {
    let (fixture, tensors) = fixture();
    let expected = &fixture.cases["kto"];
    let params: KtoParams = serde_json::from_value(expected.settings.clone()).unwrap();
    let mut objective = Marked { params, reference: Some(Reference::Base) };
    check("kto", &mut objective, &batch(&fixture, vec![1.0, 1.0, 0.0, 0.0]), expected, &tensors);
}

#[test]
fn the_loss_of_a_reward_model_is_that_of_trl() {
    let (fixture, tensors) = fixture();
    let dir = tempfile::tempdir().unwrap();
    let named = [("weight", [1, 32].as_slice()), ("bias", &[1])];
    let named = named.map(|(part, dims)| {
        (format!("v_head.summary.{part}"), tensors[&format!("head.{part}")].reshape(dims).unwrap())
    });
    crate::files::tensors::write(&dir.path().join(super::value_head::FILE), &BTreeMap::from(named)).unwrap();
    let head = ValueHead::trainable_from(dir.path(), &policy().0, &mut Store::default()).unwrap();
    let margins = fixture.margins.iter().flat_map(|margin| [*margin; 2]).collect();
    check("rm", &mut Pairwise { head: Some(head) }, &batch(&fixture, margins), &fixture.cases["rm"], &tensors);
}
