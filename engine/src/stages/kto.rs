//! Kahneman-Tversky optimisation (Ethayarajh et al., 2024): answers that are marked good or bad, each by itself, become
//! likelier or less likely than by the reference, measured from how far the policy has gone on the whole.

use super::{
    Found, Mean, Objective, Setting, Stage,
    preference::{self, Answers, sigmoid},
    reference::{Reference, ReferenceParams},
};
use crate::{
    Error, Result,
    data::Needs,
    entry::Entry,
    model::{Batch, Grads, Model, Network, Store, Weights},
    train::{Run, fit},
};
use api::{
    Card, Outcome, Problems, RunConfig, Text,
    catalog::{MetricCard, ui},
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub struct Kto;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KtoParams {
    /// How strongly the model is held to its reference.
    #[schemars(range(min = 0.0001, max = 100.0), extend("ui" = ui(["Beta", "Beta"], "与参考模型保持接近的力度。", ["Higher: stays nearer to the reference; usual 0.1", "调高：更接近参考模型；常用 0.1"])))]
    pub pref_beta: f64,
    /// Weight of learning the good answers themselves besides: of the loss of each, as a mean over all rows. (LLaMA-Factory
    /// divides by the good ones twice, so that its weight depends on how a batch is mixed.)
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["SFT weight", "SFT 权重"], "同时学习好回答本身的权重，按全部样本取平均（LLaMA-Factory 的权重还取决于批次中好回答的比例）。", ["Higher: the good answers stay likely", "调高：保持好回答的概率"])))]
    pub pref_ftx: f64,
    /// What the loss of a good answer counts.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Weight of good answers", "好回答的权重"], "好回答的损失计多少。", ["Higher where good answers are few", "好回答较少时调高"])))]
    pub kto_chosen_weight: f64,
    /// What the loss of a bad answer counts.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Weight of bad answers", "坏回答的权重"], "坏回答的损失计多少。", ["Higher where bad answers are few", "坏回答较少时调高"])))]
    pub kto_rejected_weight: f64,
    #[serde(flatten)]
    pub reference: ReferenceParams,
}

impl Default for KtoParams {
    fn default() -> Self {
        Self {
            pref_beta: 0.1,
            pref_ftx: 0.0,
            kto_chosen_weight: 1.0,
            kto_rejected_weight: 1.0,
            reference: ReferenceParams::default(),
        }
    }
}

impl Entry for Kto {
    fn card(&self) -> Card {
        Card {
            name: "kto".into(),
            title: Text::new("Good and bad (KTO)", "好坏标注（KTO）"),
            help: Text::new(
                "Learn from single answers that are marked good or bad (KTO).",
                "从标注好坏的单个回答中学习（KTO）。",
            ),
            schema: params::schema::<KtoParams>(),
        }
    }
}

impl Stage for Kto {
    fn needs(&self) -> Needs {
        Needs::Kto
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: KtoParams = params::read(config)?;
        params.reference.check()?;
        Ok(Box::new(Marked { params, reference: None }))
    }

    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        Ok(params::read::<KtoParams>(config)?.reference.others(config))
    }

    fn has_reference(&self, _: &RunConfig) -> bool {
        true
    }

    fn metrics(&self) -> Vec<MetricCard> {
        let mut all = preference::metrics();
        all.push(MetricCard::new(
            "kl",
            ["KL divergence", "KL 散度"],
            [
                "Distance from the reference in nats, estimated by answers to other prompts.",
                "与参考模型的距离（奈特），以其他提示的回答估计。",
            ],
        ));
        all
    }
}

/// The objective of one run. Of a sample's two sequences the first is learned; the second, the same prompt with another
/// row's answer, tells how far the policy is from its reference.
pub(super) struct Marked {
    pub params: KtoParams,
    pub reference: Option<Reference>,
}

impl Objective for Marked {
    fn begin(&mut self, setting: &Setting, _: &mut Store) -> Result<()> {
        self.reference = Some(Reference::of(setting)?);
        Ok(())
    }

    fn mean(&self) -> Mean {
        Mean::Samples
    }

    fn loss(
        &mut self,
        model: &dyn Network,
        batch: &Batch,
        scale: f32,
        random: u64,
        grads: &mut Grads,
    ) -> Result<Found> {
        let model = model.decoder()?;
        let own = every_other(batch, 0);
        let (answers, kl) = (Answers::summed(&own), self.divergence(model, &every_other(batch, 1))?);
        let reference = answers.of(&self.reference()?.log_probs(model, &own)?);
        model.learn_by(&own, random, grads, |log_probs| {
            let (found, gradient) = self.params.judge(&answers, &answers.of(log_probs), &reference, &own.marks, kl);
            Ok((found, answers.backward(&gradient, scale)))
        })
    }

    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        let model = model.decoder()?;
        let own = every_other(batch, 0);
        let (answers, kl) = (Answers::summed(&own), self.divergence(model, &every_other(batch, 1))?);
        let reference = answers.of(&self.reference()?.log_probs(model, &own)?);
        let policy = answers.of(&model.log_probs(&own, Weights::Tuned)?);
        Ok(self.params.judge(&answers, &policy, &reference, &own.marks, kl).0)
    }

    fn conclude(&self, values: &mut BTreeMap<String, f64>) {
        if let (Some(good), Some(bad)) = (values.get("rewards/chosen"), values.get("rewards/rejected")) {
            values.insert("rewards/margins".into(), good - bad);
        }
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}

impl Marked {
    fn reference(&self) -> Result<&Reference> {
        self.reference.as_ref().ok_or_else(|| Error::Internal("the stage has not begun".into()))
    }

    /// How far the policy is from its reference, in nats, estimated by answers that belong to other prompts; at least 0. No
    /// gradient flows through it.
    fn divergence(&self, model: &Model, others: &Batch) -> Result<f64> {
        let answers = Answers::summed(others);
        let policy = answers.of(&model.log_probs(others, Weights::Tuned)?);
        let reference = answers.of(&self.reference()?.log_probs(model, others)?);
        let sum: f64 = policy.iter().zip(&reference).map(|(policy, reference)| policy - reference).sum();
        Ok((sum / policy.len().max(1) as f64).max(0.0))
    }
}

impl KtoParams {
    /// Loss and metrics of answers by their log probabilities under policy and reference and their marks, and the gradient of
    /// each of the policy's.
    pub fn judge(
        &self,
        answers: &Answers,
        policy: &[f64],
        reference: &[f64],
        marks: &[f32],
        kl: f64,
    ) -> (Found, Vec<f64>) {
        let (mut found, mut gradient) = (Found::default(), Vec::with_capacity(policy.len()));
        for (i, ((policy, reference), mark)) in policy.iter().zip(reference).zip(marks).enumerate() {
            let (is_good, ratio) = (*mark > 0.5, policy - reference);
            let (sign, weight) = if is_good { (1.0, self.kto_chosen_weight) } else { (-1.0, self.kto_rejected_weight) };
            let value = sigmoid(sign * self.pref_beta * (ratio - kl));
            let ftx = if is_good { self.pref_ftx / answers.length(i) } else { 0.0 };
            found.loss += weight * (1.0 - value) - ftx * policy;
            gradient.push(-sign * weight * self.pref_beta * value * (1.0 - value) - ftx);
            let names =
                if is_good { ["rewards/chosen", "logps/chosen"] } else { ["rewards/rejected", "logps/rejected"] };
            found.metrics.add(names[0], self.pref_beta * ratio);
            found.metrics.add(names[1], *policy);
        }
        found.metrics.add("kl", kl);
        (found, gradient)
    }
}

/// The sequences of a batch at every second place from `from` on.
fn every_other(batch: &Batch, from: usize) -> Batch {
    let mut picked = Batch::default();
    for sequence in batch.apart().skip(from).step_by(2) {
        let start = picked.ids.len() as u32;
        picked.rows.extend(sequence.rows.iter().map(|row| start + row));
        picked.targets.extend(sequence.targets);
        picked.ids.extend(sequence.ids);
        picked.lengths.extend(sequence.lengths);
    }
    picked.marks = batch.marks.iter().skip(from).step_by(2).copied().collect();
    picked
}
