//! What makes a run need less: settings to change, with what it would need then.

use super::{Load, by_part};
use crate::{model::ModelConfig, train::checkpoint::Space};
use api::{
    RunConfig,
    plan::{Fix, Plan},
};

/// Of the memory that is free now, the share that a run may count on.
const SHARE: f64 = 0.95;
/// A change that saves less than this share is none.
const WORTH: f64 = 0.05;
/// Samples aren't cut below so many tokens.
const SHORTEST: usize = 128;

/// A run as its estimate sees it.
pub struct Needs<'a> {
    pub model: &'a ModelConfig,
    pub load: Load,
    /// What a measurement of such a run found, as a share of what the formula says.
    pub factor: f64,
    /// Bytes of models besides the trained one.
    pub others: u64,
    pub batch: usize,
    /// 0 where there is none, since the stage samples its answers itself.
    pub accumulation: usize,
    pub longest: usize,
    /// Values and bytes of the base in 4 bits, where it can be kept so and isn't.
    pub in_4_bits: Option<(u64, u64)>,
    /// What its files take as it is asked for, and with as few checkpoints as there can be.
    pub disk: Space,
    pub disk_with_fewest: Space,
}

/// The settings that are changed; as they are asked for where nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Change {
    batch: Option<usize>,
    recompute: bool,
    in_4_bits: bool,
    cutoff: Option<usize>,
    fewer_checkpoints: bool,
}

impl Needs<'_> {
    /// Says in a plan what is free, what makes the run fit, and what would make it need less.
    pub fn tell(&self, free_memory: Option<u64>, free_disk: Option<u64>, plan: &mut Plan) {
        (plan.free_memory, plan.free_disk) = (free_memory, free_disk);
        plan.fit = self.fit(free_memory, free_disk);
        let now = self.memory(Change::default());
        let goal = free_memory.map_or(now / 2, |free| (free as f64 * SHARE) as u64).min((now as f64 * 0.6) as u64);
        plan.remedies = self.single(goal).into_iter().map(|change| self.fix(change)).collect();
    }

    /// The fewest and mildest changes with which the run fits; none where it fits as it is, or never.
    fn fit(&self, free_memory: Option<u64>, free_disk: Option<u64>) -> Option<Fix> {
        let mut change = Change::default();
        if let Some(goal) = free_memory.map(|free| (free as f64 * SHARE) as u64) {
            for step in [Self::smaller_batch, Self::recomputing, Self::quantised, Self::shorter] {
                if self.memory(change) > goal {
                    change = step(self, change, goal);
                }
            }
            if self.memory(change) > goal {
                return None;
            }
        }
        if free_disk.is_some_and(|free| self.disk(change) > free) {
            change.fewer_checkpoints = true;
        }
        let fits = free_disk.is_none_or(|free| self.disk(change) <= free);
        (change != Change::default() && fits).then(|| self.fix(change))
    }

    /// Each change alone, as far as it takes to reach the goal.
    fn single(&self, goal: u64) -> Vec<Change> {
        let now = self.memory(Change::default());
        let worth = |change: &Change| self.memory(*change) as f64 <= now as f64 * (1.0 - WORTH);
        let steps = [Self::smaller_batch, Self::recomputing, Self::quantised, Self::shorter];
        steps.iter().map(|step| step(self, Change::default(), goal)).filter(worth).collect()
    }

    /// Fewer samples at once; accumulation makes up for it, so that a step learns from as many.
    fn smaller_batch(&self, change: Change, goal: u64) -> Change {
        let divisors = (1..self.batch).rev().filter(|n| self.batch.is_multiple_of(*n));
        let smaller = |batch| Change { batch: Some(batch), ..change };
        let mut changes = divisors.map(smaller);
        let least = (self.batch > 1).then(|| smaller(1));
        changes.find(|change| self.memory(*change) <= goal).or(least).unwrap_or(change)
    }

    fn recomputing(&self, change: Change, _: u64) -> Change {
        let can = !self.load.recompute && !self.model.is_encoder_decoder();
        Change { recompute: can, ..change }
    }

    fn quantised(&self, change: Change, _: u64) -> Change {
        Change { in_4_bits: self.in_4_bits.is_some(), ..change }
    }

    fn shorter(&self, change: Change, goal: u64) -> Change {
        let halves = std::iter::successors(Some(self.longest / 2), |length| Some(length / 2));
        let cut = |length: usize| Change { cutoff: Some(length), ..change };
        let changes: Vec<Change> = halves.take_while(|length| *length >= SHORTEST).map(cut).collect();
        changes.iter().find(|change| self.memory(**change) <= goal).or(changes.last()).copied().unwrap_or(change)
    }

    /// Bytes with a change.
    fn memory(&self, change: Change) -> u64 {
        let share = change.batch.map_or(1.0, |batch| batch as f64 / self.batch.max(1) as f64)
            * change.cutoff.map_or(1.0, |length| length as f64 / self.longest.max(1) as f64);
        let mut load = Load { batch_tokens: (self.load.batch_tokens as f64 * share).ceil() as u64, ..self.load };
        load.recompute |= change.recompute;
        if change.in_4_bits {
            load.quantised = self.in_4_bits;
        }
        let parts: u64 = by_part(self.model, &load).iter().map(|part| part.bytes).sum();
        (parts as f64 * self.factor) as u64 + self.others
    }

    fn disk(&self, change: Change) -> u64 {
        if change.fewer_checkpoints { self.disk_with_fewest.total() } else { self.disk.total() }
    }

    fn fix(&self, change: Change) -> Fix {
        let mut changes = RunConfig::default();
        if let Some(batch) = change.batch {
            changes.set("per_device_train_batch_size", batch);
            if self.accumulation > 0 {
                changes.set("gradient_accumulation_steps", self.accumulation * self.batch / batch.max(1));
            }
        }
        if change.recompute {
            changes.set("gradient_checkpointing", true);
        }
        if change.in_4_bits {
            changes.set("quantization_bit", 4);
        }
        if let Some(length) = change.cutoff {
            changes.set("cutoff_len", length);
        }
        if change.fewer_checkpoints {
            changes.set("save_total_limit", 1);
        }
        Fix { changes, memory: self.memory(change), disk: self.disk(change) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::families::family;
    use candle_core::DType;
    use serde_json::{Value, json};

    fn model() -> ModelConfig {
        let raw = json!({
            "model_type": "llama", "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 8,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5
        });
        ModelConfig::Decoder(Box::new(family(&raw).unwrap().config(&raw).unwrap()))
    }

    /// A LoRA run of 12 samples of 2048 tokens at once.
    fn needs(model: &ModelConfig) -> Needs<'_> {
        let parameters = model.layout().parameters();
        let load = Load {
            parameters,
            trainable: 1_000_000,
            full: false,
            samples: 1000,
            batch_tokens: 12 * 2048,
            total_tokens: 0,
            trained_share: 0.5,
            compute: DType::BF16,
            recompute: false,
            quantised: None,
            state: 8_000_000,
            sampled: (0, 0),
        };
        Needs {
            model,
            load,
            factor: 1.0,
            others: 0,
            batch: 12,
            accumulation: 2,
            longest: 2048,
            in_4_bits: Some((parameters / 2, parameters / 4)),
            disk: Space { result: 1_000_000, checkpoint: 10_000_000, log: 0, saves: 20, at_once: 20 },
            disk_with_fewest: Space { result: 1_000_000, checkpoint: 10_000_000, log: 0, saves: 20, at_once: 2 },
        }
    }

    fn settings(fix: &Fix) -> Value {
        Value::Object(fix.changes.0.clone())
    }

    #[test]
    fn what_fits_is_left_alone_and_what_does_not_gets_the_mildest_changes_that_suffice() {
        let model = model();
        let needs = needs(&model);
        let now = needs.memory(Change::default());
        assert_eq!(needs.fit(Some(now * 2), Some(u64::MAX)), None);
        assert_eq!(needs.fit(None, None), None);
        // A little short: a step still learns from 24 samples.
        let fix = needs.fit(Some(now * 9 / 10), None).unwrap();
        assert_eq!(settings(&fix), json!({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}));
        // Less and less: each wave adds a change, and what is promised fits.
        let mut changes = 0;
        for free in (1..10).map(|tenths| now * (10 - tenths) / 10) {
            let Some(fix) = needs.fit(Some(free), None) else { continue };
            assert!(fix.memory <= free && fix.changes.0.len() >= changes, "{fix:?}");
            changes = fix.changes.0.len();
        }
        assert!(changes >= 3, "{changes}");
        assert_eq!(needs.fit(Some(1_000_000), None), None, "nothing makes a model vanish");
    }

    #[test]
    fn a_disk_that_is_too_small_keeps_fewer_checkpoints() {
        let model = model();
        let needs = needs(&model);
        let fix = needs.fit(None, Some(30_000_000)).unwrap();
        assert_eq!((settings(&fix), fix.disk), (json!({"save_total_limit": 1}), 21_000_000));
        assert_eq!(needs.fit(None, Some(20_000_000)), None);
        assert_eq!(needs.fit(None, Some(300_000_000)), None);
    }

    #[test]
    fn each_remedy_alone_needs_less_and_says_how_much() {
        let model = model();
        let mut plan = Plan::default();
        let needs = needs(&model);
        needs.tell(Some(u64::MAX), None, &mut plan);
        let now = needs.memory(Change::default());
        let keys: Vec<String> = plan.remedies.iter().map(Fix::settings).collect();
        let batch = "per_device_train_batch_size: 6, gradient_accumulation_steps: 4";
        assert_eq!(keys, [batch, "gradient_checkpointing: true", "cutoff_len: 1024"]);
        assert!(plan.remedies.iter().all(|fix| fix.memory < now) && plan.fit.is_none());
        // Where weights are most of it, fewer bits help.
        let load = Load { batch_tokens: 256, ..needs.load };
        let weights = Needs { load, batch: 1, longest: 256, ..needs };
        assert!(weights.single(0).iter().any(|change| weights.fix(*change).settings() == "quantization_bit: 4"));
        // A run of one short sample has no smaller batch and nothing to cut.
        let small = Needs { longest: 100, ..weights };
        assert!(small.single(0).iter().all(|change| change.batch.is_none() && change.cutoff.is_none()));
    }
}
