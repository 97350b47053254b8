//! Reward modelling: a value head learns to give the chosen answer the higher score (Bradley and Terry, 1952; Ouyang et al.,
//! 2022): `-ln σ(chosen - rejected - margin)`, each scored at its last token.

use super::{
    Found, Mean, Objective, Setting, Stage,
    preference::{log_sigmoid, sigmoid},
    value_head::ValueHead,
};
use crate::{
    Error, Result,
    data::Needs,
    entry::Entry,
    model::{Batch, Grads, Network, Store, Weights},
    train::{Run, fit},
};
use api::{Card, Outcome, Problems, RunConfig, Text, catalog::MetricCard};
use serde_json::json;
use std::path::Path;

pub struct Rm;

impl Entry for Rm {
    fn card(&self) -> Card {
        Card {
            name: "rm".into(),
            title: Text::new("Reward model", "奖励模型"),
            help: Text::new(
                "Learn to score answers from pairs of a chosen and a rejected one (reward modelling).",
                "从 chosen 与 rejected 成对的回答中学习打分（奖励建模）。",
            ),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Stage for Rm {
    fn needs(&self) -> Needs {
        Needs::Preferences
    }

    fn start(&self, _: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        Ok(Box::new(Pairwise::default()))
    }

    fn metrics(&self) -> Vec<MetricCard> {
        let card = MetricCard::new;
        vec![
            card(
                "accuracy",
                ["Accuracy", "准确率"],
                ["Share of the pairs whose better answer gets the higher score.", "较好回答得分更高的成对比例。"],
            )
            .higher(),
            card(
                "margin",
                ["Score margin", "分数差距"],
                ["Score of the better answers less that of the worse ones.", "较好回答的分数减去较差回答的分数。"],
            )
            .higher(),
            card(
                "mean_reward",
                ["Mean score", "平均分数"],
                [
                    "Of all answers; only differences are learned, so its level means nothing.",
                    "所有回答的平均分；学习的只是差距，其高低没有意义。",
                ],
            ),
        ]
    }
}

#[derive(Default)]
pub(super) struct Pairwise {
    pub head: Option<ValueHead>,
}

impl Pairwise {
    fn head(&self) -> Result<&ValueHead> {
        self.head.as_ref().ok_or_else(|| Error::Internal("the stage has not begun".into()))
    }
}

impl Objective for Pairwise {
    fn begin(&mut self, setting: &Setting, store: &mut Store) -> Result<()> {
        self.head = Some(ValueHead::trained(setting, store)?);
        Ok(())
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.head()?.save(dir)
    }

    fn restore(&mut self, checkpoint: &Path) -> Result<()> {
        self.head()?.restore(checkpoint)
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
        let head = self.head()?;
        model.learn_through(&batch.at_ends(), random, grads, |h, grads| {
            let (found, mut gradient) = judge(&head.forward(h)?, &batch.marks);
            gradient.iter_mut().for_each(|d| *d *= scale);
            Ok((found, Some(head.backward(h, &gradient, grads)?)))
        })
    }

    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        let model = model.decoder()?;
        let h = model.states(&batch.at_ends(), Weights::Tuned)?;
        Ok(judge(&self.head()?.forward(&h)?, &batch.marks).0)
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}

/// Loss and metrics of scores (chosen, rejected, chosen …), and the gradient of each score.
fn judge(scores: &[f32], margins: &[f32]) -> (Found, Vec<f32>) {
    let (mut found, mut gradient) = (Found::default(), Vec::with_capacity(scores.len()));
    for (i, pair) in scores.chunks_exact(2).enumerate() {
        let (chosen, rejected) = (f64::from(pair[0]), f64::from(pair[1]));
        let x = chosen - rejected - margins.get(2 * i).copied().map_or(0.0, f64::from);
        found.loss -= log_sigmoid(x);
        found.metrics.add("accuracy", f64::from(u8::from(chosen > rejected)));
        found.metrics.add("margin", chosen - rejected);
        found.metrics.add("mean_reward", (chosen + rejected) / 2.0);
        let d = -sigmoid(-x) as f32;
        gradient.extend([d, -d]);
    }
    (found, gradient)
}
