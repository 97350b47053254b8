//! Learning-rate schedules, as transformers computes them (`optimization.py`): factors on `learning_rate`.

use api::params::{Schedule, TrainParams};
use std::f64::consts::PI;

/// Warm-up steps of a run of `total` steps: `warmup_steps` (a share if under 1), otherwise by `warmup_ratio`.
pub fn warmup(params: &TrainParams, total: u64) -> u64 {
    match params.warmup_steps {
        steps if steps >= 1.0 => steps as u64,
        share if share > 0.0 => (share * total as f64).ceil() as u64,
        _ => (params.warmup_ratio * total as f64).ceil() as u64,
    }
}

/// Factor on the learning rate `peak` for the step after `done` steps.
pub fn factor(schedule: Schedule, done: u64, warmup: u64, total: u64, peak: f64) -> f64 {
    let (s, w, t) = (done as f64, warmup as f64, total as f64);
    if schedule == Schedule::Constant {
        return 1.0;
    }
    if done < warmup {
        return s / w.max(1.0);
    }
    let progress = (s - w) / (t - w).max(1.0);
    match schedule {
        Schedule::Constant | Schedule::ConstantWithWarmup => 1.0,
        Schedule::Linear => ((t - s) / (t - w).max(1.0)).max(0.0),
        Schedule::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        Schedule::CosineWithRestarts if progress >= 1.0 => 0.0,
        Schedule::CosineWithRestarts => (0.5 * (1.0 + (PI * (progress % 1.0)).cos())).max(0.0),
        Schedule::Polynomial => {
            const END: f64 = 1e-7;
            if done > total || peak <= 0.0 {
                return if peak > 0.0 { END / peak } else { 0.0 };
            }
            ((peak - END) * (1.0 - (s - w) / (t - w).max(1.0)) + END) / peak
        }
        Schedule::InverseSqrt => {
            let scale = if warmup > 0 { w } else { 10_000.0 };
            1.0 / ((s + scale - w) / scale).sqrt()
        }
    }
}
