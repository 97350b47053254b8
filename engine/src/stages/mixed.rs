//! Text and instructions in one run: texts are learned whole, of conversations the answers, each kind with a weight of its own.
//! `mix_strategy` and `interleave_probs` say how often each dataset comes.

use super::{Found, Objective, Stage};
use crate::{
    Result,
    data::Needs,
    entry::Entry,
    kernels::head::Scale,
    model::{Batch, Grads, Network, Weights},
    train::{Run, fit},
};
use api::{
    Card, Outcome, Problem, Problems, RunConfig, Text,
    catalog::{MetricCard, ui},
    params,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub struct Mixed;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MixedParams {
    /// What the loss of a token of plain text counts.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Weight of text", "文本权重"], "纯文本词元的损失计多少。", ["Higher: takes in more of the texts", "调高：更多地吸收文本内容"])))]
    pub text_weight: f32,
    /// What the loss of a token of an answer counts.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["Weight of instructions", "指令权重"], "回答词元的损失计多少。", ["Higher: keeps answering well", "调高：更好地保持问答能力"])))]
    pub instruction_weight: f32,
}

impl Default for MixedParams {
    fn default() -> Self {
        Self { text_weight: 1.0, instruction_weight: 1.0 }
    }
}

impl Entry for Mixed {
    fn card(&self) -> Card {
        Card {
            name: "mixed".into(),
            title: Text::new("Text and instructions", "文本与指令"),
            help: Text::new(
                "Learn plain texts and answers in one run, each kind with its weight (PT and SFT together).",
                "在同一次运行中学习纯文本与问答，各有权重（PT 与 SFT 混合）。",
            ),
            schema: params::schema::<MixedParams>(),
        }
    }
}

impl Stage for Mixed {
    fn needs(&self) -> Needs {
        Needs::Mixed
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: MixedParams = params::read(config)?;
        if params.text_weight == 0.0 && params.instruction_weight == 0.0 {
            return Err(no_weight().into());
        }
        Ok(Box::new(Weighted { params }))
    }

    fn metrics(&self) -> Vec<MetricCard> {
        let card = MetricCard::new;
        vec![
            card(
                "loss_text",
                ["Loss of texts", "文本的损失"],
                ["Mean over the tokens of plain texts, before its weight.", "纯文本词元的平均损失，未乘权重。"],
            )
            .lower(),
            card(
                "loss_instructions",
                ["Loss of answers", "回答的损失"],
                ["Mean over the tokens of answers, before its weight.", "回答词元的平均损失，未乘权重。"],
            )
            .lower(),
        ]
    }
}

struct Weighted {
    params: MixedParams,
}

impl Weighted {
    /// Of each target, its weight.
    fn weights(&self, batch: &Batch) -> Vec<f32> {
        let mut weights = vec![self.params.instruction_weight; batch.targets.len()];
        for (range, _) in batch.target_ranges().into_iter().zip(&batch.marks).filter(|(_, mark)| **mark > 0.5) {
            weights[range].fill(self.params.text_weight);
        }
        weights
    }

    /// The weighted sum of the targets' losses, and each kind's mean without weights.
    fn found(&self, batch: &Batch, losses: &[f32], weights: &[f32]) -> Found {
        let sum: f64 = losses.iter().zip(weights).map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum();
        let mut found = Found::from(sum);
        for (range, mark) in batch.target_ranges().into_iter().zip(&batch.marks).filter(|(range, _)| !range.is_empty())
        {
            let name = if *mark > 0.5 { "loss_text" } else { "loss_instructions" };
            let sum = losses[range.clone()].iter().copied().map(f64::from).sum();
            found.metrics.add_sum(name, sum, range.len() as f64);
        }
        found
    }
}

impl Objective for Weighted {
    fn loss(
        &mut self,
        model: &dyn Network,
        batch: &Batch,
        scale: f32,
        random: u64,
        grads: &mut Grads,
    ) -> Result<Found> {
        let model = model.decoder()?;
        if batch.targets.is_empty() {
            return Ok(Found::default());
        }
        let weights = self.weights(batch);
        let scales: Vec<f32> = weights.iter().map(|weight| weight * scale).collect();
        model.learn_through(batch, random, grads, |h, grads| {
            let ce = model.head_loss_backward(h, &batch.targets, Scale::Rows(&scales), grads)?;
            Ok((self.found(batch, &ce.losses, &weights), ce.hidden))
        })
    }

    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        let model = model.decoder()?;
        let mut losses = model.log_probs(batch, Weights::Tuned)?;
        losses.iter_mut().for_each(|log_prob| *log_prob = -*log_prob);
        Ok(self.found(batch, &losses, &self.weights(batch)))
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}

fn no_weight() -> Problem {
    Problem::new(
        "nothing_weighs",
        "text_weight and instruction_weight are both 0: nothing would be learned.",
        "text_weight 与 instruction_weight 都为 0：不会学到任何内容。",
    )
    .hint("Set one of them above 0; 1 is usual.", "请将其中之一设为大于 0 的数，常用 1。")
    .field("text_weight")
}
