//! Direct preference optimisation and its kin: the chosen answer of a pair becomes likelier than the rejected one, without a
//! reward model. Arguments mean what they mean in LLaMA-Factory; losses are TRL's.

use super::{
    Found, Mean, Objective, Setting, Stage,
    preference::{self, Answers, log_sigmoid, sigmoid},
    reference::{Reference, ReferenceParams},
};
use crate::{
    Result,
    data::Needs,
    entry::Entry,
    model::{Batch, Grads, Model, Network, Store, Weights},
    train::{Run, fit},
};
use api::{
    Card, Outcome, Problem, Problems, RunConfig, Text,
    catalog::{MetricCard, ui},
    params::{self, ModelParams},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub struct Dpo;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DpoParams {
    /// Which loss: sigmoid is DPO; orpo and simpo need no reference model.
    #[schemars(extend("ui" = ui(["Loss", "损失"], "使用哪种损失：sigmoid 即 DPO；orpo 与 simpo 不需要参考模型。", ["sigmoid is the usual one; ipo holds back more", "通常用 sigmoid；ipo 更克制"])))]
    pub pref_loss: PrefLoss,
    /// How strongly the model is held to its reference; with orpo, the weight of the odds ratio.
    #[schemars(range(min = 0.0001, max = 100.0), extend("ui" = ui(["Beta", "Beta"], "与参考模型保持接近的力度；对 orpo 为比值比项的权重。", ["Higher: stays nearer to the reference; usual 0.1, simpo 2", "调高：更接近参考模型；常用 0.1，simpo 为 2"])))]
    pub pref_beta: f64,
    /// Weight of learning the chosen answers themselves besides.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["SFT weight", "SFT 权重"], "同时学习 chosen 回答本身的权重。", ["Higher: the chosen answers stay likely", "调高：保持 chosen 回答的概率"])))]
    pub pref_ftx: f64,
    /// Share of pairs that are taken to be marked the wrong way round. Only with sigmoid.
    #[schemars(range(min = 0.0, max = 0.5), extend("ui" = ui(["Label smoothing", "标签平滑"], "认为标反了的样本对的比例，仅用于 sigmoid。", ["Higher: for pairs that people disagree about", "调高：适合标注有分歧的数据"])))]
    pub dpo_label_smoothing: f64,
    /// By how much the chosen answer shall be ahead. Only with simpo.
    #[schemars(range(min = 0.0, max = 100.0), extend("ui" = ui(["SimPO gamma", "SimPO gamma"], "chosen 回答应领先多少，仅用于 simpo。", ["Higher: a wider margin", "调高：间隔更大"])))]
    pub simpo_gamma: f64,
    /// What the tokens count by which one answer of a pair is longer than the other (LD-DPO). Empty: as much as all.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Length desensitising", "长度去敏"], "一对回答中较长者多出的词元计多少（LD-DPO）。留空则与其他词元相同。", ["Lower: less reward for sheer length", "调低：减少单纯因长度获得的奖励"])))]
    pub ld_alpha: Option<f64>,
    #[serde(flatten)]
    pub reference: ReferenceParams,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum PrefLoss {
    // Rafailov et al., 2023. (No doc comments: the schema would not be a plain list of words.)
    #[default]
    Sigmoid,
    // Zhao et al., 2023 (SLiC).
    Hinge,
    // Azar et al., 2023.
    Ipo,
    // Ethayarajh et al., 2024, on pairs.
    KtoPair,
    // Hong et al., 2024.
    Orpo,
    // Meng et al., 2024.
    Simpo,
}

impl Default for DpoParams {
    fn default() -> Self {
        Self {
            pref_loss: PrefLoss::Sigmoid,
            pref_beta: 0.1,
            pref_ftx: 0.0,
            dpo_label_smoothing: 0.0,
            simpo_gamma: 0.5,
            ld_alpha: None,
            reference: ReferenceParams::default(),
        }
    }
}

impl Entry for Dpo {
    fn card(&self) -> Card {
        Card {
            name: "dpo".into(),
            title: Text::new("Preferences (DPO)", "偏好（DPO）"),
            help: Text::new(
                "Learn from pairs to prefer the chosen answer to the rejected one: DPO, IPO, ORPO, SimPO and more.",
                "从成对回答中学习偏好 chosen 而非 rejected：DPO、IPO、ORPO、SimPO 等。",
            ),
            schema: params::schema::<DpoParams>(),
        }
    }
}

impl Stage for Dpo {
    fn needs(&self) -> Needs {
        Needs::Preferences
    }

    fn drops_out(&self) -> bool {
        false
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: DpoParams = params::read(config)?;
        if params.dpo_label_smoothing > 0.0 && params.pref_loss != PrefLoss::Sigmoid {
            return Err(smoothing_elsewhere().into());
        }
        params.reference.check()?;
        Ok(Box::new(Preference { params, reference: None }))
    }

    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        let params: DpoParams = params::read(config)?;
        Ok(if params.has_reference() { params.reference.others(config) } else { Vec::new() })
    }

    fn has_reference(&self, config: &RunConfig) -> bool {
        params::read::<DpoParams>(config).is_ok_and(|params| params.has_reference())
    }

    fn metrics(&self) -> Vec<MetricCard> {
        let card = MetricCard::new;
        let mut all = vec![
            card(
                "rewards/accuracies",
                ["Reward accuracy", "奖励准确率"],
                ["Share of the pairs whose better answer has the higher reward.", "较好回答奖励更高的成对比例。"],
            )
            .higher(),
        ];
        all.extend(preference::metrics());
        all.extend([
            card(
                "sft_loss",
                ["Loss of better answers", "较好回答的损失"],
                ["Their cross-entropy, one of the two parts of ORPO.", "其交叉熵，ORPO 两部分之一。"],
            )
            .lower(),
            card(
                "odds_ratio_loss",
                ["Loss of the odds ratio", "优势比的损失"],
                [
                    "How little the better answers are ahead, the other part of ORPO.",
                    "较好回答领先不足的程度，ORPO 的另一部分。",
                ],
            )
            .lower(),
        ]);
        all
    }
}

/// The objective of one run.
pub(super) struct Preference {
    pub params: DpoParams,
    /// None where the loss needs none.
    pub reference: Option<Reference>,
}

impl Objective for Preference {
    fn begin(&mut self, setting: &Setting, _: &mut Store) -> Result<()> {
        if self.params.has_reference() {
            self.reference = Some(Reference::of(setting)?);
        }
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
        let (answers, reference) = (self.params.answers(batch), self.reference_of(model, batch)?);
        model.learn_by(batch, random, grads, |log_probs| {
            let (found, gradient) = self.params.judge(&answers, &answers.of(log_probs), &reference);
            Ok((found, answers.backward(&gradient, scale)))
        })
    }

    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        let model = model.decoder()?;
        let (answers, reference) = (self.params.answers(batch), self.reference_of(model, batch)?);
        let policy = answers.of(&model.log_probs(batch, Weights::Tuned)?);
        Ok(self.params.judge(&answers, &policy, &reference).0)
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}

impl Preference {
    /// The reference's log probability of each sequence; 0 where the loss needs none. LD-DPO leaves it whole.
    fn reference_of(&self, model: &Model, batch: &Batch) -> Result<Vec<f64>> {
        let Some(reference) = &self.reference else { return Ok(vec![0.0; batch.lengths.len()]) };
        let plain = DpoParams { ld_alpha: None, ..self.params.clone() };
        Ok(plain.answers(batch).of(&reference.log_probs(model, batch)?))
    }
}

impl DpoParams {
    pub fn has_reference(&self) -> bool {
        !matches!(self.pref_loss, PrefLoss::Orpo | PrefLoss::Simpo)
    }

    /// Whether the loss takes means over an answer's tokens instead of sums.
    fn averages(&self) -> bool {
        matches!(self.pref_loss, PrefLoss::Ipo | PrefLoss::Orpo | PrefLoss::Simpo)
    }

    /// The answers of a batch as the loss takes them.
    pub fn answers(&self, batch: &Batch) -> Answers {
        let answers = match self.ld_alpha {
            Some(alpha) => Answers::desensitised(batch, alpha),
            None => Answers::summed(batch),
        };
        if self.averages() { answers.averaged() } else { answers }
    }

    /// Loss and metrics of the log probabilities of the sequences (chosen, rejected, chosen …) of policy and reference, and
    /// the gradient of each of the policy's.
    pub fn judge(&self, answers: &Answers, policy: &[f64], reference: &[f64]) -> (Found, Vec<f64>) {
        let beta = self.pref_beta;
        let ratios: Vec<f64> = policy.iter().zip(reference).map(|(policy, reference)| policy - reference).collect();
        let divergence = |from: usize| {
            let some = ratios.iter().skip(from).step_by(2);
            (some.clone().sum::<f64>() / some.count().max(1) as f64).max(0.0)
        };
        // Estimates that KTO doesn't differentiate: of the rejected answers for the chosen ones, and the other way round.
        let kl = [divergence(1), divergence(0)];
        let (mut found, mut gradient) = (Found::default(), Vec::with_capacity(policy.len()));
        for (i, pair) in ratios.chunks_exact(2).enumerate() {
            let (chosen, rejected) = (policy[2 * i], policy[2 * i + 1]);
            let logits = pair[0] - pair[1];
            let (loss, mut d) = match self.pref_loss {
                PrefLoss::Sigmoid => {
                    let (x, smooth) = (beta * logits, self.dpo_label_smoothing);
                    let loss = -(1.0 - smooth) * log_sigmoid(x) - smooth * log_sigmoid(-x);
                    (loss, opposite(beta * (sigmoid(x) - (1.0 - smooth))))
                }
                PrefLoss::Hinge => {
                    let short = 1.0 - beta * logits;
                    (short.max(0.0), opposite(if short > 0.0 { -beta } else { 0.0 }))
                }
                PrefLoss::Ipo => {
                    let off = logits - 1.0 / (2.0 * beta);
                    (off * off, opposite(2.0 * off))
                }
                PrefLoss::KtoPair => {
                    let [good, bad] = [sigmoid(beta * (pair[0] - kl[0])), sigmoid(beta * (kl[1] - pair[1]))];
                    let slope = |s: f64| beta * s * (1.0 - s) / 2.0;
                    (1.0 - (good + bad) / 2.0, [-slope(good), slope(bad)])
                }
                PrefLoss::Orpo => {
                    let [chosen, rejected] = [chosen, rejected].map(|mean| mean.min(CERTAIN));
                    let [against, against_rejected] = [chosen, rejected].map(|mean| -mean.exp_m1());
                    let odds = (chosen - rejected) - (against.ln() - against_rejected.ln());
                    let slope = -beta * sigmoid(-odds);
                    found.metrics.add("sft_loss", -chosen);
                    found.metrics.add("odds_ratio_loss", -log_sigmoid(odds));
                    (-chosen - beta * log_sigmoid(odds), [slope / against - 1.0, -slope / against_rejected])
                }
                PrefLoss::Simpo => {
                    let x = beta * logits - self.simpo_gamma;
                    (-log_sigmoid(x), opposite(-beta * sigmoid(-x)))
                }
            };
            // The mean over the tokens of the chosen answer, which some losses take already.
            let length = if self.averages() { 1.0 } else { answers.length(2 * i) };
            d[0] -= self.pref_ftx / length;
            found.loss += loss - self.pref_ftx * chosen / length;
            let [good, bad] = [beta * pair[0], beta * pair[1]];
            for (name, value) in [
                ("rewards/chosen", good),
                ("rewards/rejected", bad),
                ("rewards/accuracies", f64::from(u8::from(good > bad))),
                ("rewards/margins", good - bad),
                ("logps/chosen", chosen),
                ("logps/rejected", rejected),
            ] {
                found.metrics.add(name, value);
            }
            gradient.extend(d);
        }
        (found, gradient)
    }
}

/// ORPO's odds of an answer with a higher mean log probability than this would be infinite.
const CERTAIN: f64 = -1e-7;

/// The gradients of chosen and rejected of a loss of their difference.
fn opposite(d: f64) -> [f64; 2] {
    [d, -d]
}

fn smoothing_elsewhere() -> Problem {
    Problem::new(
        "smoothing_needs_sigmoid",
        "dpo_label_smoothing is for the loss sigmoid only.",
        "dpo_label_smoothing 仅用于 sigmoid 损失。",
    )
    .hint("Set it to 0, or pref_loss to sigmoid.", "请设为 0，或将 pref_loss 设为 sigmoid。")
    .field("dpo_label_smoothing")
}
