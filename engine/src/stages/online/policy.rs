//! The clipped loss of a policy (Schulman et al., 2017), as GRPO and its kin have it: the ratio of each token or of the whole
//! answer, bounds of their own below and above (DAPO), and a KL penalty towards the reference (Schulman's k3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the ratio of new to old probability is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Level {
    #[default]
    Token,
    // The geometric mean over an answer: GSPO (Zheng et al., 2025).
    Sequence,
}

/// Where the ratio stops to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    pub low: f64,
    pub high: f64,
    /// The largest ratio that counts at all (INTELLECT-2's two-sided clipping).
    pub delta: Option<f64>,
    pub level: Level,
    /// What the KL penalty counts.
    pub beta: f64,
}

/// One answer, by token.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub log_probs: &'a [f32],
    /// Those of the weights that sampled it; empty: the same.
    pub old: &'a [f32],
    /// Those of the reference; empty: no penalty.
    pub reference: &'a [f32],
    pub advantages: &'a [f32],
    /// What each token counts.
    pub weight: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Weighted sum over the tokens.
    pub loss: f64,
    /// Its gradient for each log probability.
    pub gradient: Vec<f32>,
    /// Share of the tokens whose ratio left the clip range (after `delta`, as TRL counts it), and their mean KL divergence from the reference.
    pub clipped: f64,
    pub kl: f64,
}

/// The loss of one answer.
pub fn clipped(part: &Part, clip: &Clip) -> Found {
    let n = part.log_probs.len();
    let at = |values: &[f32], i: usize| values.get(i).map(|v| f64::from(*v));
    let log_prob = |i: usize| f64::from(part.log_probs[i]);
    let shift = |i: usize| log_prob(i) - at(part.old, i).unwrap_or(log_prob(i));
    let mean = (0..n).map(shift).sum::<f64>() / n.max(1) as f64;
    let mut found = Found { gradient: vec![0.0; n], ..Found::default() };
    // By how much all log probabilities of the answer move the loss, where they share one ratio.
    let (mut shared, mut hits) = (0.0, 0usize);
    for i in 0..n {
        let advantage = at(part.advantages, i).unwrap_or(0.0);
        let ratio = if clip.level == Level::Token { shift(i) } else { mean }.exp();
        let bounded = ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
        let most = clip.delta.map_or(ratio, |delta| ratio.min(delta));
        let (free, held) = (most * advantage, bounded * advantage);
        let mut loss = -free.min(held);
        // Nothing moves where a bound holds the ratio that counts.
        let counts = if free <= held { most } else { bounded };
        let slope = if counts == ratio { -ratio * advantage } else { 0.0 };
        hits += usize::from((most < 1.0 - clip.low && advantage < 0.0) || (most > 1.0 + clip.high && advantage > 0.0));
        let mut gradient = 0.0;
        match clip.level {
            Level::Token => gradient += slope,
            Level::Sequence => shared += slope / n as f64,
        }
        if let Some(reference) = at(part.reference, i) {
            let away = reference - log_prob(i);
            let kl = away.exp() - away - 1.0;
            found.kl += kl / n as f64;
            loss += clip.beta * kl;
            gradient += clip.beta * (1.0 - away.exp());
        }
        found.loss += part.weight * loss;
        found.gradient[i] = (part.weight * gradient) as f32;
    }
    if clip.level == Level::Sequence {
        found.gradient.iter_mut().for_each(|gradient| *gradient += (part.weight * shared) as f32);
    }
    found.clipped = hits as f64 / n.max(1) as f64;
    found
}
