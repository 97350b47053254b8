//! Distillation (Hinton et al., 2015): the model learns the teacher's distribution over the next token at every token of an
//! answer, not only the token that stands there.

use super::{Found, Objective, Setting, Stage, reference};
use crate::{
    Error, Result,
    data::Needs,
    entry::Entry,
    kernels::{
        distil::{Blend, Distilled, distil},
        head::Head,
    },
    model::{Batch, Grads, Model, Network, Store, Weights},
    train::{Run, fit},
};
use api::{
    Card, Outcome, Problem, Problems, RunConfig, Text,
    catalog::{MetricCard, ui},
    params::{self, ModelParams},
};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub struct Distill;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DistillParams {
    /// The model to learn from: a folder, a .gguf file, or a hub id that was pulled, with the same vocabulary.
    #[schemars(extend("ui" = ui(["Teacher", "教师模型"], "要学习的教师模型：文件夹、.gguf 文件或已下载的 Hub 名称，词表须相同。", ["Usually a larger one of the same family", "通常是同系列的更大模型"])))]
    pub teacher_model_name_or_path: Option<String>,
    /// An adapter on the teacher.
    #[schemars(extend("ui" = ui(["Teacher's adapter", "教师模型的适配器"], "教师模型上的适配器。", ["", ""])))]
    pub teacher_adapter_name_or_path: Option<String>,
    /// Which divergence from the teacher: forward covers all that the teacher would say, reverse keeps to what it would say
    /// most likely.
    #[schemars(extend("ui" = ui(["Divergence", "散度"], "与教师的哪种散度：forward 覆盖教师可能说的一切，reverse 集中于教师最可能说的。", ["forward is the usual one", "通常用 forward"])))]
    pub distill_kl: Divergence,
    /// Both distributions are flattened by it before they are compared.
    #[schemars(range(min = 0.01, max = 100.0), extend("ui" = ui(["Distillation temperature", "蒸馏温度"], "比较前用它把两个分布变平缓。", ["Higher: the teacher's unlikely words count more", "调高：教师不太可能说的词也更重要"])))]
    pub distill_temperature: f32,
    /// Share of the divergence in the loss; the rest is the cross-entropy of the rows' own answers.
    #[schemars(range(min = 0.0, max = 1.0), extend("ui" = ui(["Teacher's share", "教师的比重"], "散度在损失中的比重，其余为样本回答的交叉熵。", ["Higher: follows the teacher rather than the rows", "调高：更多地跟随教师而非样本"])))]
    pub distill_alpha: f32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Divergence {
    #[default]
    Forward,
    Reverse,
}

impl Default for DistillParams {
    fn default() -> Self {
        Self {
            teacher_model_name_or_path: None,
            teacher_adapter_name_or_path: None,
            distill_kl: Divergence::Forward,
            distill_temperature: 1.0,
            distill_alpha: 0.5,
        }
    }
}

/// The argument that names the teacher.
const TEACHER: &str = "teacher_model_name_or_path";

impl DistillParams {
    fn teacher(&self, config: &RunConfig) -> ModelParams {
        ModelParams {
            model_name_or_path: self.teacher_model_name_or_path.clone().unwrap_or_default(),
            adapter_name_or_path: self.teacher_adapter_name_or_path.clone().filter(|dir| !dir.is_empty()),
            device: params::read::<ModelParams>(config).ok().and_then(|model| model.device),
            ..ModelParams::default()
        }
    }
}

impl Entry for Distill {
    fn card(&self) -> Card {
        Card {
            name: "distill".into(),
            title: Text::new("Distillation", "蒸馏"),
            help: Text::new(
                "Learn answers as another model would give them, by its probabilities of every next token.",
                "按另一个模型对每个下一词元的概率来学习回答。",
            ),
            schema: params::schema::<DistillParams>(),
        }
    }
}

impl Stage for Distill {
    fn needs(&self) -> Needs {
        Needs::Instructions
    }

    fn start(&self, config: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        let params: DistillParams = params::read(config)?;
        if params.teacher_model_name_or_path.as_ref().is_none_or(String::is_empty) {
            return Err(no_teacher().into());
        }
        Ok(Box::new(FromTeacher { params, teacher: None }))
    }

    fn others(&self, config: &RunConfig) -> Result<Vec<(&'static str, ModelParams)>, Problems> {
        let params: DistillParams = params::read(config)?;
        Ok(vec![(TEACHER, params.teacher(config))])
    }

    fn metrics(&self) -> Vec<MetricCard> {
        vec![
            MetricCard::new(
                "kl",
                ["Distance from the teacher", "与教师的距离"],
                ["KL divergence of the next token's probabilities, in nats.", "下一词元概率分布的 KL 散度（奈特）。"],
            )
            .lower(),
        ]
    }
}

struct FromTeacher {
    params: DistillParams,
    teacher: Option<Model>,
}

impl Objective for FromTeacher {
    fn begin(&mut self, setting: &Setting, _: &mut Store) -> Result<()> {
        let chosen = self.params.teacher(setting.config);
        let teacher = reference::open(&chosen, TEACHER, setting)?;
        // Rows behind the last word only fill the table up, and models of one family have different numbers of them.
        let rows = words(setting.model.decoder()?, &teacher);
        let vocabulary = setting.prepared.encoder.tokenizer().get_vocab(true);
        if let Some(last) = vocabulary.values().max().filter(|last| **last as usize >= rows) {
            return Err(too_few_rows(&chosen.model_name_or_path, rows, *last).into());
        }
        self.teacher = Some(teacher);
        Ok(())
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
        if batch.targets.is_empty() {
            return Ok(Found::default());
        }
        let taught = self.teacher()?.states(batch, Weights::Tuned)?;
        model.learn_through(batch, random, grads, |h, grads| {
            let (found, hidden) = self.compare(model, h, &taught, batch, Some((scale, grads)))?;
            Ok((found, hidden))
        })
    }

    fn evaluate(&mut self, model: &dyn Network, batch: &Batch) -> Result<Found> {
        let model = model.decoder()?;
        let taught = self.teacher()?.states(batch, Weights::Tuned)?;
        let h = model.states(batch, Weights::Tuned)?;
        Ok(self.compare(model, &h, &taught, batch, None)?.0)
    }

    fn train(&mut self, run: &mut Run) -> Result<Outcome> {
        fit(self, run)
    }
}

impl FromTeacher {
    fn teacher(&self) -> Result<&Model> {
        self.teacher.as_ref().ok_or_else(|| Error::Internal("the stage has not begun".into()))
    }

    /// Loss and metrics of the states h of the model and `taught` of its teacher; with a scale also the gradient of h.
    fn compare(
        &self,
        model: &Model,
        h: &Tensor,
        taught: &Tensor,
        batch: &Batch,
        learn: Option<(f32, &mut Grads)>,
    ) -> Result<(Found, Option<Tensor>)> {
        let blend = Blend {
            reverse: self.params.distill_kl == Divergence::Reverse,
            temperature: self.params.distill_temperature,
            alpha: self.params.distill_alpha,
        };
        let words = words(model, self.teacher()?);
        let first = |head: Head| Ok::<_, Error>(Head { w: head.w.narrow(0, 0, words)?, ..head });
        let (own, teacher) = (first(model.head_on(h)?)?, first(self.teacher()?.head_on(taught)?)?);
        let scale = learn.as_ref().map(|(scale, _)| *scale);
        let Distilled { losses, divergences, hidden, weight } =
            distil(&own, &teacher, &batch.targets, blend, scale, model.head.trainable)?;
        if let (Some((_, grads)), Some(weight)) = (learn, weight) {
            grads.add(&model.head, weight.pad_with_zeros(0, 0, model.config.vocab_size - words)?)?;
        }
        let sum = |values: &[f32]| values.iter().copied().map(f64::from).sum::<f64>();
        let mut found = Found::from(sum(&losses));
        found.metrics.add_sum("kl", sum(&divergences), divergences.len() as f64);
        let factor = f64::from(model.config.logit_scale);
        let hidden = hidden.map(|dh| if factor == 1.0 { Ok(dh) } else { dh * factor }).transpose()?;
        Ok((found, hidden))
    }
}

/// Rows that both tables of words have.
fn words(own: &Model, teacher: &Model) -> usize {
    own.config.vocab_size.min(teacher.config.vocab_size)
}

fn no_teacher() -> Problem {
    Problem::new("no_teacher", "Distillation needs a teacher, and none is named.", "蒸馏需要教师模型，但未指定。")
        .hint(
            "Set teacher_model_name_or_path to a model with the same vocabulary.",
            "请将 teacher_model_name_or_path 设为词表相同的模型。",
        )
        .field(TEACHER)
}

fn too_few_rows(name: &str, rows: usize, last: u32) -> Problem {
    Problem::new(
        "other_vocabulary",
        format!("{name} and the model to train have {rows} words in common, but the vocabulary goes up to {last}."),
        format!("{name} 与被训练的模型共有 {rows} 个词元，而词表编号到 {last}。"),
    )
    .hint("Choose a teacher with the same vocabulary.", "请选择词表相同的教师模型。")
    .field(TEACHER)
}
