//! Losses, gradients and advantages against TRL, on numbers that `tests/fixtures/policy/make.py` made.

use super::{
    advantage::{Scale, group, leave_one_out},
    *,
};
use crate::{
    rewards::{Attempt, Worth},
    stages::online::{Part, clipped},
};
use serde_json::{Value, json};

const FIXTURE: &str = include_str!("../../../tests/fixtures/policy/policy.json");

fn fixture() -> Value {
    serde_json::from_str(FIXTURE).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    value.as_array().unwrap().iter().map(|row| numbers(row).into_iter().map(|v| v as f32).collect()).collect()
}

fn near(what: &str, found: f64, expected: f64) {
    let off = (found - expected).abs();
    assert!(off <= 1e-5 * expected.abs().max(1e-2), "{what}: {found}, not {expected}");
}

fn params(value: Value) -> GrpoParams {
    params::read(&serde_json::from_value(value).unwrap()).unwrap()
}

#[test]
fn losses_and_gradients_are_trls() {
    let cases = fixture()["grpo"].as_array().unwrap().clone();
    for case in &cases {
        let what = format!("{} {} {} {}", case["loss_type"], case["level"], case["beta"], case["delta"]);
        let asked = params(json!({
            "loss_type": case["loss_type"], "importance_sampling_level": case["level"], "beta": case["beta"],
            "delta": case["delta"], "epsilon_high": 0.28
        }));
        let (log_probs, old, reference) = (rows(&case["log_probs"]), rows(&case["old"]), rows(&case["reference"]));
        let episode = |row: &Vec<f32>| Episode {
            attempt: Attempt { ids: vec![0; row.len()], ..Attempt::default() },
            whole: true,
            ..Episode::default()
        };
        let episodes: Vec<Episode> = log_probs.iter().map(episode).collect();
        let weights = weights(&episodes, &asked, 64, 8);
        let learner = Learner { params: asked, rewards: None, running: None, state: State::default() };
        let (mut loss, mut kl, mut clip_ratio) = (0.0, 0.0, 0.0);
        let tokens = log_probs.iter().flatten().count() as f64;
        for (i, log_probs) in log_probs.iter().enumerate() {
            let advantages = vec![numbers(&case["advantages"])[i] as f32; log_probs.len()];
            let old = old.get(i).map_or(&[][..], Vec::as_slice);
            let reference = if learner.params.beta > 0.0 { reference[i].as_slice() } else { &[] };
            let part = Part { log_probs, old, reference, advantages: &advantages, weight: weights[i] };
            let found = clipped(&part, &learner.clip());
            for (found, expected) in found.gradient.iter().zip(&rows(&case["gradient"])[i]) {
                near(&format!("{what}: gradient"), f64::from(*found), f64::from(*expected));
            }
            loss += found.loss;
            kl += found.kl * log_probs.len() as f64 / tokens;
            clip_ratio += found.clipped * log_probs.len() as f64 / tokens;
        }
        near(&format!("{what}: loss"), loss, case["loss"].as_f64().unwrap());
        near(&format!("{what}: kl"), kl, case["kl"].as_f64().unwrap());
        if let Some(expected) = case["clip_ratio"].as_f64() {
            near(&format!("{what}: clip ratio"), clip_ratio, expected);
        }
    }
    assert_eq!(cases.len(), 64);
}

#[test]
fn advantages_are_trls() {
    let expected = &fixture()["advantages"];
    let (rewards, each) = (numbers(&expected["rewards"]), expected["each"].as_u64().unwrap() as usize);
    for (name, found) in [
        ("group", group(&rewards, each, Scale::Group)),
        ("batch", group(&rewards, each, Scale::Batch)),
        ("none", group(&rewards, each, Scale::None)),
        ("rloo", leave_one_out(&rewards, each)),
    ] {
        for (found, expected) in found.iter().zip(numbers(&expected[name])) {
            near(name, *found, expected);
        }
    }
}

/// Of the step's tokens together the mean is 0 and the deviation 1; a penalty lies on a token and on those before it.
#[test]
fn reinforce_plus_plus_normalises_over_all_tokens() {
    let episode = |tokens: usize, reward: f64, apart: &[f32]| Episode {
        attempt: Attempt { ids: vec![0; tokens], ..Attempt::default() },
        worth: Worth { total: reward, ..Worth::default() },
        old: apart.into(),
        reference: vec![0.0; tokens],
        ..Episode::default()
    };
    for (estimator, beta) in [("reinforce_plus_plus", 0.5), ("reinforce_plus_plus_baseline", 0.0)] {
        let mut episodes = [episode(3, 1.0, &[0.0, 0.0, 1.0]), episode(1, 0.0, &[0.0]), episode(2, 0.5, &[1.0, 0.0])];
        let asked = params(json!({"advantage_estimator": estimator, "beta": beta}));
        advantage::estimate(&mut episodes, 3, &asked);
        let all: Vec<f64> = episodes.iter().flat_map(|e| &e.advantages).map(|a| f64::from(*a)).collect();
        assert!(all.iter().sum::<f64>().abs() < 1e-5, "{all:?}");
        assert!((online::deviation(&all) - 1.0).abs() < 1e-5, "{all:?}");
        match beta > 0.0 {
            // 0.5, 0.5, 0.5 | 0 | 0, 0.5 before they are normalised.
            true => assert!(all[0] == all[1] && all[1] == all[2] && all[2] == all[5] && all[3] == all[4]),
            false => assert!(all[0] == all[2] && all[4] == all[5] && all[0] > all[4] && all[4] > all[3]),
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |value: Value| {
        let config: RunConfig = serde_json::from_value(value).unwrap();
        let train = params::read::<TrainParams>(&config).unwrap();
        let started = Grpo.start(&config).map(|_| ()).and_then(|()| Grpo.sampled(&config, &train).map(|_| ()));
        started.unwrap_err().0.remove(0)
    };
    let alone = refused(json!({"num_generations": 1, "reward_funcs": "format"}));
    assert_eq!((alone.code.as_str(), alone.field.as_deref()), ("bad_value", Some("num_generations")));
    let uneven = refused(json!({"num_generations": 3, "per_device_train_batch_size": 8, "reward_funcs": "format"}));
    assert_eq!(uneven.field.as_deref(), Some("num_generations"));
    assert!(uneven.hint.contains("2, 4, 8"), "{}", uneven.hint);
    let single = refused(json!({
        "num_generations": 4, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "reward_funcs": "format"
    }));
    assert!(single.hint.contains("gradient_accumulation_steps, for example to 4"), "{}", single.hint);
    for (more, field) in [
        (json!({"top_k": 1}), "top_k"),
        (json!({"delta": 1.2, "epsilon_high": 0.28}), "delta"),
        (json!({"scale_rewards": "none", "advantage_estimator": "rloo"}), "scale_rewards"),
        (json!({"dynamic_sample": true, "advantage_estimator": "reinforce_plus_plus"}), "dynamic_sample"),
    ] {
        let problem = refused(more);
        assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        assert!(!problem.hint.is_empty() && problem.zh.is_some(), "{problem}");
    }
    assert_eq!(refused(json!({})).field.as_deref(), Some("reward_funcs"));
}

#[test]
fn each_side_of_the_clip_range_may_have_its_own_bound() {
    let clip = |value: Value| {
        let learner = Learner { params: params(value), rewards: None, running: None, state: State::default() };
        (learner.clip().low, learner.clip().high)
    };
    assert_eq!(clip(json!({"epsilon": 0.1})), (0.1, 0.1));
    assert_eq!(clip(json!({"epsilon_low": 0.3, "epsilon_high": 0.28})), (0.3, 0.28));
}

/// Answers that were cut count nothing, but stay among those that are averaged over.
#[test]
fn cut_answers_can_be_left_out() {
    let episode = |tokens: usize, whole: bool| Episode {
        attempt: Attempt { ids: vec![0; tokens], ..Attempt::default() },
        whole,
        ..Episode::default()
    };
    let episodes = [episode(2, true), episode(4, false)];
    for (loss_type, expected) in [("dapo", 1.0 / 6.0), ("bnpo", 0.5), ("grpo", 0.25), ("dr_grpo", 0.0625)] {
        let asked = params(json!({"loss_type": loss_type, "mask_truncated_completions": true}));
        assert_eq!(weights(&episodes, &asked, 64, 8), [expected, 0.0], "{loss_type}");
    }
}
