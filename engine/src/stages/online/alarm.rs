//! What goes wrong most often when a policy learns from itself, told once each: it stops trying (entropy collapse), or it runs
//! away from where it began (exploding KL).

use api::Problem;
use serde::{Deserialize, Serialize};

/// Steps whose mean entropy is what later ones are held against, and steps that are looked at together.
const FIRST: usize = 3;
const RECENT: usize = 3;
/// Entropy has collapsed below this share of what it was.
const COLLAPSED: f64 = 0.1;
/// Nats a token above which a policy has left its reference.
const FAR: f64 = 1.0;

/// What the steps so far measured. Checkpoints keep it, so that a resumed run holds its steps against the same beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alarms {
    /// Entropies of the first steps and of the last ones.
    first: Vec<f64>,
    recent: Vec<f64>,
    /// KL divergences of the last steps.
    kls: Vec<f64>,
    steps: usize,
    told: [bool; 2],
}

impl Alarms {
    /// What a step measured, and the alarms that it raises. Where nothing is held against a reference (GRPO with `beta` 0),
    /// there is no `kl`: another pass through the model takes a third of the time that learning does. Then only the entropy
    /// is watched.
    pub fn hear(&mut self, entropy: f64, kl: Option<f64>) -> Vec<Problem> {
        self.steps += 1;
        if self.first.len() < FIRST {
            self.first.push(entropy);
        }
        keep(&mut self.recent, entropy);
        if let Some(kl) = kl {
            keep(&mut self.kls, kl);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (first, now, kl) = (mean(&self.first), mean(&self.recent), mean(&self.kls));
        let collapsed = self.steps >= FIRST + RECENT && now < COLLAPSED * first;
        let far = self.kls.len() >= RECENT && kl > FAR;
        let mut raised = Vec::new();
        if collapsed && !std::mem::replace(&mut self.told[0], true) {
            raised.push(entropy_collapse(first, now));
        }
        if far && !std::mem::replace(&mut self.told[1], true) {
            raised.push(exploding_kl(kl));
        }
        raised
    }
}

/// Adds a value to the last [`RECENT`] ones.
fn keep(values: &mut Vec<f64>, value: f64) {
    if values.len() == RECENT {
        values.remove(0);
    }
    values.push(value);
}

fn entropy_collapse(first: f64, now: f64) -> Problem {
    Problem::new(
        "entropy_collapse",
        format!("The entropy has fallen from {first:.3} to {now:.3} nats: the answers become all the same."),
        format!("熵从 {first:.3} 降到 {now:.3} 奈特：各回答变得几乎相同。"),
    )
    .hint(
        "Stop if the reward is high enough. Otherwise go on from an earlier checkpoint with a lower learning_rate, a higher \
         temperature or epsilon_high, or a beta above 0.",
        "若奖励已足够高，可停止。否则从较早的检查点继续，并调低 learning_rate、调高 temperature 或 epsilon_high，或设 beta 大于 0。",
    )
    .field("temperature")
}

fn exploding_kl(kl: f64) -> Problem {
    Problem::new(
        "exploding_kl",
        format!("The policy has gone {kl:.2} nats a token away from its reference: it forgets how to speak."),
        format!("策略与参考模型的 KL 散度已达每词元 {kl:.2} 奈特：模型正在遗忘原有的语言能力。"),
    )
    .hint(
        "Go on from an earlier checkpoint with a lower learning_rate or a higher beta.",
        "请从较早的检查点继续，并调低 learning_rate 或调高 beta。",
    )
    .field("beta")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_alarm_is_raised_once() {
        let mut alarms = Alarms::default();
        let mut codes = Vec::new();
        for step in 0..20 {
            let (entropy, kl) = if step < 8 { (2.0, 0.01) } else { (0.05, 3.0) };
            codes.extend(alarms.hear(entropy, Some(kl)).into_iter().map(|problem| problem.code));
        }
        codes.sort();
        assert_eq!(codes, ["entropy_collapse", "exploding_kl"]);
        let mut quiet = Alarms::default();
        assert!((0..20).all(|step| quiet.hear(1.0 - f64::from(step) * 0.04, Some(0.5)).is_empty()));
    }

    /// What has collapsed is not the beginning of a resumed run.
    #[test]
    fn a_resumed_run_remembers_its_beginning() {
        let mut alarms = Alarms::default();
        (0..4).for_each(|_| assert!(alarms.hear(2.0, None).is_empty()));
        let mut resumed: Alarms = serde_json::from_str(&serde_json::to_string(&alarms).unwrap()).unwrap();
        assert_eq!(resumed, alarms);
        let raised: Vec<Problem> = (0..6).flat_map(|_| resumed.hear(0.05, None)).collect();
        assert_eq!(raised.iter().map(|problem| problem.code.as_str()).collect::<Vec<_>>(), ["entropy_collapse"]);
    }
}
