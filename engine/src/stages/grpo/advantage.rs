//! How much better than expected each answer is worth.

use super::GrpoParams;
use crate::stages::online::{Episode, deviation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What rewards are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Scale {
    Group,
    Batch,
    None,
}

/// What an answer is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Estimator {
    // The mean of its group (Shao et al., 2024).
    Group,
    // The mean of the others of its group (Ahmadian et al., 2024).
    Rloo,
    // All tokens of the step (Hu, 2025).
    ReinforcePlusPlus,
    // The mean of its group, then all tokens of the step.
    ReinforcePlusPlusBaseline,
}

impl Estimator {
    /// Whether the distance from the reference is taken off the rewards instead of being part of the loss.
    pub fn penalises_rewards(self) -> bool {
        matches!(self, Self::Rloo | Self::ReinforcePlusPlus)
    }
}

/// Added to a deviation before it divides, as TRL has it.
const SLACK: f64 = 1e-4;

/// Puts the advantage of each token in place.
pub fn estimate(episodes: &mut [Episode], each: usize, params: &GrpoParams) {
    let rewards: Vec<f64> = episodes.iter().map(|episode| episode.worth.total).collect();
    // Of each token: log probability by the policy over that by the reference (Schulman's k1).
    let apart = |episode: &Episode| -> Vec<f64> {
        episode
            .old
            .iter()
            .zip(&episode.reference)
            .map(|(old, reference)| f64::from(*old) - f64::from(*reference))
            .collect()
    };
    let evenly = |episodes: &[Episode], values: Vec<f64>| -> Vec<Vec<f64>> {
        episodes.iter().zip(values).map(|(episode, value)| vec![value; episode.len()]).collect()
    };
    let advantages = match params.advantage_estimator {
        Estimator::Group => evenly(episodes, group(&rewards, each, params.scale_rewards)),
        Estimator::Rloo => {
            let distance = |episode: &Episode| params.beta * apart(episode).iter().sum::<f64>();
            let penalised: Vec<f64> = episodes.iter().zip(&rewards).map(|(e, reward)| reward - distance(e)).collect();
            evenly(episodes, leave_one_out(&penalised, each))
        }
        Estimator::ReinforcePlusPlus => {
            // The penalty of a token lies on it and on all before it.
            let returns = |(episode, reward): (&Episode, &f64)| -> Vec<f64> {
                let (mut left, mut all) = (*reward, vec![0.0; episode.len()]);
                let apart = apart(episode);
                for i in (0..episode.len()).rev() {
                    left -= params.beta * apart.get(i).copied().unwrap_or(0.0);
                    all[i] = left;
                }
                all
            };
            whitened(episodes.iter().zip(&rewards).map(returns).collect())
        }
        Estimator::ReinforcePlusPlusBaseline => whitened(evenly(episodes, group(&rewards, each, Scale::None))),
    };
    for (episode, advantages) in episodes.iter_mut().zip(advantages) {
        episode.advantages = advantages.into_iter().map(|advantage| advantage as f32).collect();
    }
}

/// Rewards without the mean of their group of `each`, divided as `scale` says.
pub fn group(rewards: &[f64], each: usize, scale: Scale) -> Vec<f64> {
    let whole = deviation(rewards);
    let of = |group: &[f64]| {
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        let divisor = match scale {
            Scale::Group => deviation(group) + SLACK,
            Scale::Batch => whole + SLACK,
            Scale::None => 1.0,
        };
        group.iter().map(move |reward| (reward - mean) / divisor).collect::<Vec<_>>()
    };
    rewards.chunks(each.max(1)).flat_map(of).collect()
}

/// Rewards without the mean of the others of their group of `each`.
pub fn leave_one_out(rewards: &[f64], each: usize) -> Vec<f64> {
    let of = |group: &[f64]| {
        let (sum, others) = (group.iter().sum::<f64>(), (group.len() as f64 - 1.0).max(1.0));
        group.iter().map(move |reward| reward - (sum - reward) / others).collect::<Vec<_>>()
    };
    rewards.chunks(each.max(1)).flat_map(of).collect()
}

/// All values with mean 0 and deviation 1.
fn whitened(mut values: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let all: Vec<f64> = values.iter().flatten().copied().collect();
    let (mean, spread) = (all.iter().sum::<f64>() / all.len().max(1) as f64, deviation(&all).max(1e-8));
    values.iter_mut().flatten().for_each(|value| *value = (*value - mean) / spread);
    values
}
