//! What losses of whole answers have in common: log probabilities of sequences, and their way back to those of tokens.

use crate::model::Batch;
use api::catalog::MetricCard;
use std::ops::Range;

/// Log probabilities of the answers of a batch, one for each sequence.
pub struct Answers {
    ranges: Vec<Range<usize>>,
    /// What the log probability of each target counts.
    weights: Vec<f64>,
}

impl Answers {
    /// Sums over the targets of each sequence.
    pub fn summed(batch: &Batch) -> Self {
        Self { ranges: batch.target_ranges(), weights: vec![1.0; batch.targets.len()] }
    }

    /// The same; of a pair, the tokens by which one answer is longer than the other count `alpha` only (LD-DPO, Liu et al.,
    /// 2024).
    pub fn desensitised(batch: &Batch, alpha: f64) -> Self {
        let mut answers = Self::summed(batch);
        for pair in answers.ranges.chunks(2) {
            let shorter = pair.iter().map(Range::len).min().unwrap_or(0);
            for range in pair {
                answers.weights[range.start + shorter..range.end].fill(alpha);
            }
        }
        answers
    }

    /// Means over the targets of each sequence instead of sums.
    pub fn averaged(mut self) -> Self {
        for range in &self.ranges {
            let length = range.len().max(1) as f64;
            self.weights[range.clone()].iter_mut().for_each(|weight| *weight /= length);
        }
        self
    }

    /// The log probability of each sequence, of those of the targets.
    pub fn of(&self, log_probs: &[f32]) -> Vec<f64> {
        let of = |range: &Range<usize>| {
            let parts = log_probs[range.clone()].iter().zip(&self.weights[range.clone()]);
            parts.map(|(log_prob, weight)| f64::from(*log_prob) * weight).sum()
        };
        self.ranges.iter().map(of).collect()
    }

    /// Targets of a sequence, at least one.
    pub fn length(&self, sequence: usize) -> f64 {
        self.ranges[sequence].len().max(1) as f64
    }

    /// `scale` times the gradient of the log probability of each target, given that of each sequence.
    pub fn backward(&self, gradient: &[f64], scale: f32) -> Vec<f32> {
        let mut all = vec![0.0; self.weights.len()];
        for (range, d) in self.ranges.iter().zip(gradient) {
            for i in range.clone() {
                all[i] = (d * self.weights[i]) as f32 * scale;
            }
        }
        all
    }
}

/// What is told of answers that are wanted and of others.
pub fn metrics() -> Vec<MetricCard> {
    let card = MetricCard::new;
    vec![
        card(
            "rewards/margins",
            ["Reward margin", "奖励差距"],
            ["Reward of the better answers less that of the worse ones.", "较好回答的奖励减去较差回答的奖励。"],
        )
        .higher(),
        card(
            "rewards/chosen",
            ["Reward of better answers", "较好回答的奖励"],
            [
                "pref_beta times the log probability gained over the reference.",
                "pref_beta 乘以其对数概率相对参考模型的增量。",
            ],
        ),
        card(
            "rewards/rejected",
            ["Reward of worse answers", "较差回答的奖励"],
            [
                "pref_beta times the log probability gained over the reference.",
                "pref_beta 乘以其对数概率相对参考模型的增量。",
            ],
        ),
        card(
            "logps/chosen",
            ["Log probability of better answers", "较好回答的对数概率"],
            ["How likely the model finds them; 0 is certain.", "模型认为其出现的可能性；0 为必然。"],
        ),
        card(
            "logps/rejected",
            ["Log probability of worse answers", "较差回答的对数概率"],
            ["How likely the model finds them; 0 is certain.", "模型认为其出现的可能性；0 为必然。"],
        ),
    ]
}

/// `ln σ(x)`, exact for large |x|.
pub fn log_sigmoid(x: f64) -> f64 {
    -(-x.abs()).exp().ln_1p() + x.min(0.0)
}

pub fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}
