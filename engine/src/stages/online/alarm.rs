//! What goes wrong most often when a policy learns from itself, told once each: it stops trying (entropy collapse), or it runs
//! away from where it began (exploding KL).

use api::Problem;

/// Steps whose mean entropy is what later ones are held against, and steps that are looked at together.
const FIRST: usize = 3;
const RECENT: usize = 3;
/// Entropy has collapsed below this share of what it was.
const COLLAPSED: f64 = 0.1;
/// Nats a token above which a policy has left its reference.
const FAR: f64 = 1.0;

#[derive(Default)]
pub struct Alarms {
    entropies: Vec<f64>,
    kls: Vec<f64>,
    told: [bool; 2],
}

impl Alarms {
    /// What a step measured; the alarms that it raises.
    pub fn hear(&mut self, entropy: f64, kl: f64) -> Vec<Problem> {
        self.entropies.push(entropy);
        self.kls.push(kl);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let recent = |values: &[f64]| mean(&values[values.len().saturating_sub(RECENT)..]);
        let n = self.entropies.len();
        let (first, now) = (mean(&self.entropies[..n.min(FIRST)]), recent(&self.entropies));
        let collapsed = n >= FIRST + RECENT && now < COLLAPSED * first;
        let far = n >= RECENT && recent(&self.kls) > FAR;
        let mut raised = Vec::new();
        if collapsed && !std::mem::replace(&mut self.told[0], true) {
            raised.push(entropy_collapse(first, now));
        }
        if far && !std::mem::replace(&mut self.told[1], true) {
            raised.push(exploding_kl(recent(&self.kls)));
        }
        raised
    }
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
mod tests {
    use super::*;

    #[test]
    fn each_alarm_is_raised_once() {
        let mut alarms = Alarms::default();
        let mut codes = Vec::new();
        for step in 0..20 {
            let (entropy, kl) = if step < 8 { (2.0, 0.01) } else { (0.05, 3.0) };
            codes.extend(alarms.hear(entropy, kl).into_iter().map(|problem| problem.code));
        }
        codes.sort();
        assert_eq!(codes, ["entropy_collapse", "exploding_kl"]);
        let mut quiet = Alarms::default();
        assert!((0..20).all(|step| quiet.hear(1.0 - f64::from(step) * 0.04, 0.5).is_empty()));
    }
}
