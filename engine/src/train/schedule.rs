//! Learning-rate schedules, as transformers computes them (`optimization.py`): factors on `learning_rate`.

use crate::Result;
use api::{
    Problem,
    params::{OptimizerParams, Schedule, TrainParams},
};
use serde::Deserialize;
use serde_json::Value;
use std::f64::consts::PI;

/// What `lr_scheduler_kwargs` may say, by transformers' names. What isn't said has transformers' default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Shape {
    num_cycles: Option<f64>,
    /// Of `polynomial`: the last learning rate, and the power.
    lr_end: Option<f64>,
    power: Option<f64>,
    /// Of `cosine_with_min_lr`: the last learning rate, or its share of the first.
    min_lr: Option<f64>,
    min_lr_rate: Option<f64>,
    /// Of `inverse_sqrt`: steps.
    timescale: Option<f64>,
    /// Of `warmup_stable_decay`. Where neither number is given, a third of the steps after warm-up is stable, as in
    /// LLaMA-Factory.
    num_stable_steps: Option<f64>,
    num_decay_steps: Option<f64>,
    min_lr_ratio: Option<f64>,
    warmup_type: Curve,
    decay_type: Option<Curve>,
}

/// How `warmup_stable_decay` rises and falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Curve {
    #[default]
    Linear,
    Cosine,
    #[serde(rename = "1-sqrt")]
    Root,
}

impl Shape {
    /// The shape of a run's schedule.
    pub fn read(train: &TrainParams, more: &OptimizerParams) -> Result<Self> {
        let allowed = arguments(train.lr_scheduler_type);
        let Some(given) = more.schedule() else {
            let shown = more.lr_scheduler_kwargs.clone().unwrap_or_default();
            return Err(refused(&format!("{shown}"), "no JSON object", "不是 JSON 对象", allowed));
        };
        if let Some(unknown) = given.keys().find(|key| !allowed.contains(&key.as_str())) {
            return Err(refused(unknown, "no argument of this schedule", "不是此曲线的参数", allowed));
        }
        let negative = |value: &Value| value.as_f64().is_some_and(|v| v < 0.0 || !v.is_finite());
        if let Some((name, value)) = given.iter().find(|(_, value)| negative(value)) {
            return Err(refused(&format!("{name} {value}"), "under 0", "小于 0", allowed));
        }
        let shape: Self = serde_json::from_value(Value::Object(given))
            .map_err(|e| refused(&e.to_string(), "no value that it takes", "不是可用的值", allowed))?;
        if train.lr_scheduler_type == Schedule::CosineWithMinLr && shape.min_lr.is_some() == shape.min_lr_rate.is_some()
        {
            return Err(refused(
                "{}",
                "without one of min_lr and min_lr_rate",
                "缺少 min_lr 与 min_lr_rate 之一",
                allowed,
            ));
        }
        Ok(shape)
    }
}

/// A problem if the run's schedule is given arguments that it doesn't take.
pub fn check(train: &TrainParams, more: &OptimizerParams) -> Result<()> {
    Shape::read(train, more).map(|_| ())
}

/// Names that `lr_scheduler_kwargs` may have.
fn arguments(schedule: Schedule) -> &'static [&'static str] {
    match schedule {
        Schedule::Linear | Schedule::Constant | Schedule::ConstantWithWarmup => &[],
        Schedule::Cosine | Schedule::CosineWithRestarts => &["num_cycles"],
        Schedule::Polynomial => &["lr_end", "power"],
        Schedule::InverseSqrt => &["timescale"],
        Schedule::CosineWithMinLr => &["min_lr", "min_lr_rate", "num_cycles"],
        Schedule::WarmupStableDecay => {
            &["num_stable_steps", "num_decay_steps", "min_lr_ratio", "num_cycles", "warmup_type", "decay_type"]
        }
    }
}

fn refused(what: &str, why: &str, zh: &str, allowed: &[&str]) -> crate::Error {
    let known = if allowed.is_empty() { "—".to_string() } else { allowed.join(", ") };
    Problem::new(
        "schedule_arguments",
        format!("lr_scheduler_kwargs has {what}, which is {why}."),
        format!("lr_scheduler_kwargs 中的 {what} {zh}。"),
    )
    .hint(format!("This schedule takes {known}."), format!("此曲线可用的参数：{known}。"))
    .field("lr_scheduler_kwargs")
    .into()
}

/// Warm-up steps of a run of `total` steps: `warmup_steps` (a share if under 1), otherwise by `warmup_ratio`.
pub fn warmup(params: &TrainParams, total: u64) -> u64 {
    match params.warmup_steps {
        steps if steps >= 1.0 => steps as u64,
        share if share > 0.0 => (share * total as f64).ceil() as u64,
        _ => (params.warmup_ratio * total as f64).ceil() as u64,
    }
}

/// Factor on the learning rate `peak` for the step after `done` steps.
pub fn factor(schedule: Schedule, shape: &Shape, done: u64, warmup: u64, total: u64, peak: f64) -> f64 {
    let (s, w, t) = (done as f64, warmup as f64, total as f64);
    if schedule == Schedule::Constant {
        return 1.0;
    }
    if done < warmup && schedule != Schedule::WarmupStableDecay {
        return s / w.max(1.0);
    }
    let progress = (s - w) / (t - w).max(1.0);
    let cosine = |progress: f64| {
        let cycles = shape.num_cycles.unwrap_or(0.5);
        0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
    };
    match schedule {
        Schedule::Constant | Schedule::ConstantWithWarmup => 1.0,
        Schedule::Linear => ((t - s) / (t - w).max(1.0)).max(0.0),
        Schedule::Cosine => cosine(progress).max(0.0),
        Schedule::CosineWithRestarts if progress >= 1.0 => 0.0,
        Schedule::CosineWithRestarts => {
            (0.5 * (1.0 + (PI * (shape.num_cycles.unwrap_or(1.0) * progress % 1.0)).cos())).max(0.0)
        }
        Schedule::CosineWithMinLr => {
            let least = shape.min_lr_rate.or(shape.min_lr.map(|least| least / peak)).unwrap_or(0.0);
            between(least, cosine(progress))
        }
        Schedule::Polynomial => {
            let (end, power) = (shape.lr_end.unwrap_or(1e-7), shape.power.unwrap_or(1.0));
            if done > total || peak <= 0.0 {
                return if peak > 0.0 { end / peak } else { 0.0 };
            }
            ((peak - end) * (1.0 - progress).powf(power) + end) / peak
        }
        Schedule::InverseSqrt => {
            let scale = shape.timescale.unwrap_or(if warmup > 0 { w } else { 10_000.0 }).max(f64::MIN_POSITIVE);
            1.0 / ((s + scale - w) / scale).sqrt()
        }
        Schedule::WarmupStableDecay => {
            let (least, left) = (shape.min_lr_ratio.unwrap_or(0.0), (t - w).max(0.0));
            let (stable, decay) = match (shape.num_stable_steps, shape.num_decay_steps) {
                (Some(stable), Some(decay)) => (stable, decay),
                (Some(stable), None) => (stable, (left - stable).max(0.0)),
                (None, Some(decay)) => ((left - decay).max(0.0), decay),
                (None, None) => ((left / 3.0).floor(), left - (left / 3.0).floor()),
            };
            if s < w {
                let progress = s / w.max(1.0);
                return between(
                    least,
                    match shape.warmup_type {
                        Curve::Linear => progress,
                        Curve::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                        Curve::Root => 1.0 - (1.0 - progress).sqrt(),
                    },
                );
            }
            let progress = (s - w - stable) / decay.max(1.0);
            match shape.decay_type.unwrap_or(Curve::Cosine) {
                _ if s < w + stable => 1.0,
                _ if s >= w + stable + decay => least,
                Curve::Linear => between(least, 1.0 - progress),
                Curve::Cosine => between(least, cosine(progress)),
                Curve::Root => between(least, 1.0 - progress.sqrt()),
            }
        }
    }
}

/// `factor` of the way from `least` to 1.
fn between(least: f64, factor: f64) -> f64 {
    (factor * (1.0 - least) + least).max(0.0)
}
