//! Advantages, returns, losses and gradients against TRL, on numbers that `tests/fixtures/policy/make.py` made.

use super::*;
use crate::{
    rewards::Attempt,
    stages::online::{Part, clipped},
};
use serde_json::{Value, json};

const FIXTURE: &str = include_str!("../../../tests/fixtures/policy/policy.json");

fn rows(value: &Value) -> Vec<Vec<f32>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

fn near(what: &str, found: impl IntoIterator<Item = f64>, expected: impl IntoIterator<Item = f64>) {
    let (found, expected): (Vec<f64>, Vec<f64>) = (found.into_iter().collect(), expected.into_iter().collect());
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(&expected) {
        let off = (found - expected).abs();
        assert!(off <= 1e-5 * expected.abs().max(1e-2), "{what}: {found}, not {expected}");
    }
}

fn flat(rows: &[Vec<f32>]) -> Vec<f64> {
    rows.iter().flatten().map(|v| f64::from(*v)).collect()
}

#[test]
fn advantages_and_losses_are_trls() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    for case in fixture["ppo"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let [old, reference, values, log_probs, new_values] =
            ["old", "reference", "values", "log_probs", "new_values"].map(|name| rows(&case[name]));
        let episodes: Vec<Episode> = old
            .iter()
            .zip(&reference)
            .map(|(old, reference)| Episode {
                attempt: Attempt { ids: vec![0; old.len()], ..Attempt::default() },
                old: old.clone(),
                reference: reference.clone(),
                ..Episode::default()
            })
            .collect();
        let scores: Vec<f64> = case["scores"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let mut rewards = gae::rewards(&episodes, &scores, number("kl_coef"));
        if case["whiten"] == true {
            gae::whiten(&mut rewards, false);
        }
        let found = rewards.iter().zip(&values).map(|(r, v)| gae::advantages(r, v, number("gamma"), number("lam")));
        let (mut advantages, returns): (gae::ByToken, Vec<Vec<f32>>) = found.unzip();
        gae::whiten(&mut advantages, true);
        near("advantages", advantages.iter().flatten().copied(), flat(&rows(&case["advantages"])));
        near("returns", flat(&returns), flat(&rows(&case["returns"])));

        let clip = Clip { low: 0.2, high: 0.2, delta: None, level: Level::Token, beta: 0.0 };
        let weight = 1.0 / old.iter().flatten().count() as f64;
        let (mut policy, mut gradient, mut value, mut slopes) = (0.0, Vec::new(), 0.0, Vec::new());
        for i in 0..episodes.len() {
            let advantages: Vec<f32> = advantages[i].iter().map(|a| *a as f32).collect();
            let part = Part { log_probs: &log_probs[i], old: &old[i], reference: &[], advantages: &advantages, weight };
            let found = clipped(&part, &clip);
            policy += found.loss;
            gradient.extend(found.gradient.iter().map(|g| f64::from(*g)));
            for ((new, old), wanted) in new_values[i].iter().zip(&values[i]).zip(&returns[i]) {
                let (loss, slope) = gae::value_loss(*new, *old, *wanted, 0.2);
                value += weight * loss;
                slopes.push(0.1 * weight * slope);
            }
        }
        near("policy loss", [policy], [number("policy_loss")]);
        near("value loss", [value], [number("value_loss")]);
        near("policy gradient", gradient, flat(&rows(&case["policy_gradient"])));
        near("value gradient", slopes, flat(&rows(&case["value_gradient"])));
    }
}

#[test]
fn the_penalty_follows_its_target_and_scores_come_to_one_scale() {
    // A fifth at most, over the horizon.
    near("above", [gae::adapted(0.2, 60.0, 6.0, 100, 1000.0)], [0.2 * 1.02]);
    near("below", [gae::adapted(0.2, 5.4, 6.0, 100, 1000.0)], [0.2 * 0.99]);
    let mut moments = gae::Moments::default();
    let all = [1.0, 2.0, 4.0, 9.0, -3.0];
    moments.hear(&all[..2]);
    moments.hear(&all[2..]);
    let (mean, deviation) = (2.6, online::deviation(&all));
    near("score", [moments.normalise(9.0)], [(9.0 - mean) / deviation]);
    let perfect = [(1.0f32, 1.0f32), (2.0, 2.0)];
    assert_eq!(gae::explained(perfect.into_iter()), 1.0);
    assert_eq!(gae::explained([(0.0f32, 1.0f32), (0.0, 2.0)].into_iter()), 0.0);
}

#[test]
fn a_reward_model_is_needed() {
    let refused = |value: Value| Ppo.start(&serde_json::from_value(value).unwrap()).err().unwrap().0.remove(0);
    let none = refused(json!({}));
    assert_eq!((none.code.as_str(), none.field.as_deref()), ("no_reward_model", Some("reward_model")));
    assert_eq!(refused(json!({"ppo_epochs": 0})).field.as_deref(), Some("ppo_epochs"));
    assert!(Ppo.start(&serde_json::from_value(json!({"reward_model": "/rm"})).unwrap()).is_ok());
}
