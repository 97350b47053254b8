//! What PPO makes of scores and values before it learns: penalised rewards, generalised advantages (Schulman et al., 2016), and
//! numbers brought to one scale, as TRL does it.

use crate::stages::online::Episode;
use serde::{Deserialize, Serialize};

/// Values of each token of each answer.
pub type ByToken = Vec<Vec<f64>>;

/// The reward of each token: the score at the last, less `coef` times the distance from the reference (Schulman's k1).
pub fn rewards(episodes: &[Episode], scores: &[f64], coef: f64) -> ByToken {
    let of = |(episode, score): (&Episode, &f64)| {
        let apart = |i: usize| match episode.reference.get(i) {
            Some(reference) => f64::from(episode.old[i]) - f64::from(*reference),
            None => 0.0,
        };
        let mut rewards: Vec<f64> = (0..episode.len()).map(|i| -coef * apart(i)).collect();
        if let Some(last) = rewards.last_mut() {
            *last += score;
        }
        rewards
    };
    episodes.iter().zip(scores).map(of).collect()
}

/// Advantage and return of each token of one answer.
pub fn advantages(rewards: &[f64], values: &[f32], gamma: f64, lam: f64) -> (Vec<f64>, Vec<f32>) {
    let (mut advantages, mut last) = (vec![0.0; rewards.len()], 0.0);
    for i in (0..rewards.len()).rev() {
        let after = values.get(i + 1).map_or(0.0, |value| f64::from(*value));
        last = rewards[i] + gamma * after - f64::from(values[i]) + gamma * lam * last;
        advantages[i] = last;
    }
    let returns =
        advantages.iter().zip(values).map(|(advantage, value)| (advantage + f64::from(*value)) as f32).collect();
    (advantages, returns)
}

/// Brings all values to deviation 1, and to mean 0 if `shift`.
pub fn whiten(values: &mut ByToken, shift: bool) {
    let n = values.iter().map(Vec::len).sum::<usize>() as f64;
    if n < 2.0 {
        return;
    }
    let mean = values.iter().flatten().sum::<f64>() / n;
    let variance = values.iter().flatten().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    let scale = 1.0 / (variance + 1e-8).sqrt();
    values.iter_mut().flatten().for_each(|v| *v = (*v - mean) * scale + if shift { 0.0 } else { mean });
}

/// Mean and variance of all numbers heard so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    mean: f64,
    variance: f64,
    count: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self { mean: 0.0, variance: 1.0, count: 1e-24 }
    }
}

impl Moments {
    pub fn hear(&mut self, values: &[f64]) {
        let n = values.len() as f64;
        if values.is_empty() {
            return;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        let (total, apart) = (self.count + n, mean - self.mean);
        self.variance = (self.variance * self.count + squares + apart * apart * self.count * n / total) / total;
        self.mean += apart * n / total;
        self.count = total;
    }

    /// A number with mean 0 and deviation 1 among those that were heard.
    pub fn normalise(&self, value: f64) -> f64 {
        let deviation = (self.variance * self.count / (self.count - 1.0).max(1e-12)).sqrt();
        if self.count > 1.5 { (value - self.mean) / (deviation + f64::from(f32::EPSILON)) } else { value - self.mean }
    }
}

/// The next coefficient of the KL penalty (Ziegler et al., 2019): up to a fifth more or less for each `horizon` answers, as the
/// distance lies above or below its target.
pub fn adapted(coef: f64, kl: f64, target: f64, answers: usize, horizon: f64) -> f64 {
    let error = (kl / target - 1.0).clamp(-0.2, 0.2);
    coef * (1.0 + error * answers as f64 / horizon)
}

/// The clipped loss of one value (Schulman et al., 2017) and its gradient: half the square of its error, or of what the error
/// would be had it moved by no more than `range`, whichever is larger.
pub fn value_loss(value: f32, old: f32, wanted: f32, range: f64) -> (f64, f64) {
    let (value, old, wanted) = (f64::from(value), f64::from(old), f64::from(wanted));
    let held = value.clamp(old - range, old + range);
    let (free, bound) = (value - wanted, held - wanted);
    match free * free >= bound * bound {
        true => (0.5 * free * free, free),
        // There the bound holds it, and nothing moves.
        false => (0.5 * bound * bound, 0.0),
    }
}

/// Which share of the variance of the returns the values explain; 1: all of it.
pub fn explained(values: impl Iterator<Item = (f32, f32)>) -> f64 {
    let pairs: Vec<(f64, f64)> =
        values.map(|(value, wanted)| (f64::from(wanted) - f64::from(value), f64::from(wanted))).collect();
    let variance = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let mean = pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64;
        pairs.iter().map(|pair| (of(pair) - mean).powi(2)).sum::<f64>()
    };
    let all = variance(&|pair| pair.1);
    if all > 0.0 { 1.0 - variance(&|pair| pair.0) / all } else { 0.0 }
}
