//! Whether an export answers as the adapter on its base does: it is loaded again and held against it.
//!
//! Greedy answers to 20 questions; the logits of the tokens of these answers, on the same text; and the perplexity of a short
//! sample. Where logits agree within δ, an answer can only differ at a token whose rival was nearer than 2 δ, so answers
//! are told but decide nothing by themselves. Limits are in [`Tolerance`] and in docs/export.md.

use crate::{
    Error, Places, Result,
    data::Encoder,
    generate::batch::{Ask, answers},
    loaded::Loaded,
    model::{Batch, Model, Network},
};
use api::{
    Problem, Text,
    data::Message,
    params::{ComputeType, ExportQuantization as Quantization, GenerateParams, ModelParams},
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::atomic::AtomicBool};

/// The report that stands in an export.
pub const FILE: &str = "verification.json";
/// Tokens of an answer, of each of which all logits are compared.
const NEW: usize = 16;

/// How far an export may be from the model that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// Root of the mean square of the logits' differences, over that of the logits about their mean; exact formats only.
    pub logits: Option<f64>,
    /// Growth of the perplexity.
    pub perplexity: f64,
}

impl Tolerance {
    /// Of a format, for a model of so many layers.
    ///
    /// Rounding a weight to a type of step ε changes it by ε / √12 at the root of the mean square; each layer adds the errors
    /// of its seven products, and the layers' add up like the sides of right angles: 2 ε √layers leaves room for twice that.
    pub fn of(quantization: Quantization, layers: usize) -> Self {
        let exact = |step: f64| Self { logits: Some(2.0 * step * (layers as f64).sqrt()), perplexity: 0.01 };
        let quantised = |perplexity: f64| Self { logits: None, perplexity };
        match quantization {
            // Sums in another order, which merging makes, cost more than the last place.
            Quantization::F32 => exact(2f64.powi(-16)),
            Quantization::F16 => exact(2f64.powi(-10)),
            Quantization::Bf16 => exact(2f64.powi(-7)),
            Quantization::Q8_0 => quantised(0.02),
            Quantization::Q6K => quantised(0.04),
            Quantization::Q5KM => quantised(0.08),
            Quantization::Q4KM => quantised(0.15),
            Quantization::Q4_0 => quantised(0.30),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    pub passed: bool,
    /// What is wrong, if anything is.
    pub reason: Option<Text>,
    pub prompts: usize,
    /// Answers that are the same, token by token.
    pub same_answers: usize,
    pub max_logit_difference: f64,
    /// See [`Tolerance::logits`].
    pub relative_logit_difference: f64,
    pub perplexity_before: f64,
    pub perplexity_after: f64,
    pub tolerance: Tolerance,
    pub answers: Vec<Compared>,
}

/// One answer of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub prompt: String,
    pub before: String,
    pub after: String,
    pub same: bool,
}

/// Tokens, and the first of them that counts for the perplexity.
type Sample = (Vec<u32>, usize);

/// What the adapter on its base says.
pub struct Reference {
    prompts: Vec<Vec<u32>>,
    answers: Vec<Vec<u32>>,
    texts: Vec<String>,
    /// Of each answer, (tokens, vocab).
    logits: Vec<Tensor>,
    sample: Vec<Sample>,
    perplexity: f64,
    end: Option<(String, u32)>,
}

impl Reference {
    pub fn of(loaded: &Loaded, stop: &AtomicBool) -> Result<Self> {
        let prompts = prompts(loaded)?;
        let answers = greedy(loaded, &prompts, stop)?;
        let texts = texts(&loaded.encoder, &answers)?;
        let pairs = || prompts.iter().zip(&answers);
        let logits = match loaded.model.decoder() {
            Ok(model) => pairs().map(|(prompt, answer)| logits(model, prompt, answer)).collect::<Result<_>>()?,
            Err(_) => Vec::new(),
        };
        let sample = match loaded.model.encoder_decoder() {
            None => sample(loaded)?,
            // It says nothing of a plain text: its own answers are the sample.
            Some(_) => pairs().map(|(prompt, answer)| ([prompt.as_slice(), answer].concat(), prompt.len())).collect(),
        };
        let perplexity = perplexity(loaded.model.as_ref(), &sample)?;
        let end = loaded.encoder.special().eos.clone();
        Ok(Self { prompts, answers, texts, logits, sample, perplexity, end })
    }

    /// Holds an export against it.
    pub fn against(&self, loaded: &Loaded, quantization: Quantization, stop: &AtomicBool) -> Result<Verification> {
        let layers = loaded.model.layout().stacks().iter().map(|(_, layers)| layers).sum();
        let tolerance = Tolerance::of(quantization, layers);
        let others = greedy(loaded, &self.prompts, stop)?;
        let mut difference = Difference::default();
        for ((prompt, answer), before) in self.prompts.iter().zip(&self.answers).zip(&self.logits) {
            difference.add(before, &logits(loaded.model.decoder()?, prompt, answer)?)?;
        }
        let after = texts(&loaded.encoder, &others)?;
        let compared = PROMPTS.iter().zip(&self.texts).zip(after).zip(self.answers.iter().zip(&others));
        let compared = compared.map(|(((prompt, before), after), (ours, theirs))| Compared {
            prompt: (*prompt).into(),
            before: before.clone(),
            after,
            same: ours == theirs,
        });
        let answers: Vec<Compared> = compared.collect();
        let mut found = Verification {
            passed: false,
            reason: None,
            prompts: answers.len(),
            same_answers: answers.iter().filter(|answer| answer.same).count(),
            max_logit_difference: difference.most,
            relative_logit_difference: difference.relative(),
            perplexity_before: self.perplexity,
            perplexity_after: perplexity(loaded.model.as_ref(), &self.sample)?,
            tolerance,
            answers,
        };
        let same_prompts = prompts(loaded)? == self.prompts;
        found.reason = match (same_prompts, loaded.encoder.special().eos == self.end) {
            (false, _) => Some(Text::new(
                "its tokenizer or chat template makes other tokens of the same messages",
                "其分词器或对话模板对相同消息得到不同的词元",
            )),
            (_, false) => Some(Text::new("its token that ends a text is another", "其文本结束词元不同")),
            (true, true) => found.too_far(),
        };
        found.passed = found.reason.is_none();
        Ok(found)
    }
}

impl Verification {
    /// Growth of the perplexity.
    pub fn change(&self) -> f64 {
        self.perplexity_after / self.perplexity_before - 1.0
    }

    fn too_far(&self) -> Option<Text> {
        let (relative, change) = (self.relative_logit_difference, self.change());
        // What is no number isn't near.
        let most = self.tolerance.logits.unwrap_or(f64::INFINITY);
        let rounding = relative <= most;
        if !rounding {
            return Some(Text::new(
                format!("its logits differ by {relative:.2e} of their spread, at most {most:.2e} is rounding"),
                format!("其 logits 相差为其离散程度的 {relative:.2e}，舍入误差最多为 {most:.2e}"),
            ));
        }
        let most = self.tolerance.perplexity;
        let near = if self.tolerance.logits.is_some() { change.abs() <= most } else { change <= most };
        (!near).then(|| {
            let (before, after) = (self.perplexity_before, self.perplexity_after);
            let (change, most) = (change * 100.0, most * 100.0);
            Text::new(
                format!(
                    "its perplexity is {after:.3} instead of {before:.3} ({change:+.1} %), at most {most:.0} % is usual"
                ),
                format!("其困惑度为 {after:.3}，原为 {before:.3}（{change:+.1}%），通常不超过 {most:.0}%"),
            )
        })
    }

    /// The figures by name, for the page of the export.
    pub fn summary(&self) -> [(&'static str, f64); 6] {
        [
            ("same_answers", self.same_answers as f64),
            ("prompts", self.prompts as f64),
            ("max_logit_difference", self.max_logit_difference),
            ("relative_logit_difference", self.relative_logit_difference),
            ("perplexity_before", self.perplexity_before),
            ("perplexity_after", self.perplexity_after),
        ]
    }

    /// Writes the report into a folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::Internal(error.to_string()))?;
        crate::files::write_atomically(&dir.join(FILE), json)
    }

    /// What a person hears of an export that isn't what it was made of.
    pub fn problem(&self) -> Option<Problem> {
        let Text { en, zh } = self.reason.clone()?;
        let problem = Problem::new(
            "export_differs",
            format!("The export was taken back: loaded again, {en}."),
            format!("导出已撤回：重新加载后，{zh}。"),
        );
        let hint = match self.tolerance.logits {
            Some(_) => problem.hint(
                "This should not happen: export again, and report it if it stays.",
                "这不应发生：请重新导出；若仍如此，请反馈此问题。",
            ),
            None => problem.hint(
                "Choose an export_quantization with more bits, such as q8_0.",
                "请选择位数更多的 export_quantization，例如 q8_0。",
            ),
        };
        Some(hint.field("export_quantization"))
    }
}

/// Loads an export as a chat would, in float32.
pub fn load(path: &Path, places: &Places) -> Result<Loaded> {
    let params = ModelParams { model_name_or_path: path.display().to_string(), ..ModelParams::default() };
    Loaded::open(&params, places, ComputeType::Fp32)
}

/// Sums over the differences of logits.
#[derive(Default)]
struct Difference {
    most: f64,
    squares: f64,
    spread: f64,
}

impl Difference {
    fn add(&mut self, before: &Tensor, after: &Tensor) -> Result<()> {
        if before.dims() != after.dims() {
            // Another vocabulary: as far apart as can be.
            self.most = f64::INFINITY;
            self.squares = f64::INFINITY;
            return Ok(());
        }
        for (before, after) in before.to_vec2::<f32>()?.iter().zip(&after.to_vec2::<f32>()?) {
            let mean = before.iter().copied().map(f64::from).sum::<f64>() / before.len().max(1) as f64;
            for (x, y) in before.iter().zip(after) {
                let apart = f64::from(y - x);
                // Not `max`, which passes over what is no number.
                self.most = if apart.abs() <= self.most { self.most } else { apart.abs() };
                self.squares += apart * apart;
                self.spread += (f64::from(*x) - mean).powi(2);
            }
        }
        Ok(())
    }

    fn relative(&self) -> f64 {
        (self.squares / self.spread.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// The questions as the model is asked them, each cut to half of its context.
fn prompts(loaded: &Loaded) -> Result<Vec<Vec<u32>>> {
    let most = (context(loaded) / 2).max(1);
    let ids = |prompt: &&str| {
        let mut ids = loaded.encoder.prompt(&[Message::new("user", *prompt)], None)?;
        ids.truncate(most);
        Ok(ids)
    };
    PROMPTS.iter().map(ids).collect()
}

fn sample(loaded: &Loaded) -> Result<Vec<Sample>> {
    let most = context(loaded);
    let ids = |text: &&str| {
        let mut ids = loaded.encoder.text(text)?.ids;
        ids.truncate(most);
        Ok((ids, 1))
    };
    SAMPLE.iter().map(ids).collect()
}

/// Positions of a text; relative ones know no end.
fn context(loaded: &Loaded) -> usize {
    loaded.model.decoder().map_or(usize::MAX, Model::context)
}

fn greedy(loaded: &Loaded, prompts: &[Vec<u32>], stop: &AtomicBool) -> Result<Vec<Vec<u32>>> {
    let params =
        GenerateParams { do_sample: false, max_new_tokens: NEW, repetition_penalty: 1.0, ..GenerateParams::default() };
    let asks: Vec<Ask> = prompts.iter().map(|prompt| Ask { prompt: prompt.clone(), seeds: vec![0] }).collect();
    let made = answers(loaded.model.as_ref(), &asks, &loaded.eos, &params, stop)?;
    let made = made.ok_or_else(|| Error::Internal("stopped".into()))?;
    Ok(made.into_iter().flatten().map(|answer| answer.ids).collect())
}

fn texts(encoder: &Encoder, answers: &[Vec<u32>]) -> Result<Vec<String>> {
    let text = |ids: &Vec<u32>| encoder.tokenizer().decode(ids, true).map_err(|e| Error::Internal(e.to_string()));
    answers.iter().map(text).collect()
}

/// Logits (tokens, vocab) of each token of an answer.
fn logits(model: &Model, prompt: &[u32], answer: &[u32]) -> Result<Tensor> {
    let ids: Vec<u32> = prompt.iter().chain(&answer[..answer.len().saturating_sub(1)]).copied().collect();
    let all = model.logits(&ids, &[ids.len()])?;
    let first = prompt.len().saturating_sub(1);
    Ok(all.narrow(0, first, ids.len() - first)?)
}

/// exp of the mean loss over all tokens.
fn perplexity(model: &dyn Network, sample: &[Sample]) -> Result<f64> {
    let (mut loss, mut count) = (0.0, 0);
    for (ids, first) in sample {
        let trained: Vec<bool> = (0..ids.len()).map(|i| i >= *first).collect();
        let batch = Batch::new([(ids.as_slice(), trained.as_slice())]);
        loss += model.loss(&batch)?;
        count += batch.targets.len();
    }
    Ok((loss / count.max(1) as f64).exp())
}

const PROMPTS: [&str; 20] = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in one sentence why the sky is blue.",
    "List three fruits.",
    "Translate to German: Good morning, how are you?",
    "What is 17 plus 25?",
    "Who are you?",
    "Write a Python function that reverses a string.",
    "Name a city in Japan.",
    "Give me a recipe with eggs.",
    "Summarise: The cat sat on the mat and watched the rain for an hour.",
    "Is water heavier than oil?",
    "Tell me a joke.",
    "What should I pack for a walk in the mountains?",
    "你好，请介绍一下你自己。",
    "中国的首都是哪里？",
    "用一句话解释什么是机器学习。",
    "写一句关于春天的诗。",
    "把“谢谢”翻译成英语。",
    "三加五等于多少？",
];

/// Plain text of several kinds, for the perplexity.
const SAMPLE: [&str; 8] = [
    "The river rises in the hills to the north and runs for about sixty miles before it reaches the sea. In summer its \
     upper part is little more than a stream, but after heavy rain it fills its banks within a few hours, and the old \
     stone bridge near the mill has been rebuilt twice after floods.",
    "To make the dough, put the flour in a large bowl and add the yeast, a pinch of salt and a spoon of sugar. Pour in \
     the warm water slowly and stir until everything comes together. Knead it for ten minutes, cover the bowl with a \
     cloth, and let it rest in a warm place until it has doubled in size.",
    "A function that calls itself is said to be recursive. Every recursive function needs a case in which it returns \
     without calling itself again; otherwise it would never end. Many problems on trees and lists are easiest to solve \
     in this way, because each part of the structure looks like the whole.",
    "The committee met on Tuesday to discuss the budget for the coming year. Several members asked why the cost of \
     heating had risen so much, and the treasurer explained that prices had doubled since the contract was signed. It \
     was agreed to compare offers from other suppliers before the next meeting.",
    "She closed the book and looked out of the window. The last train had gone an hour ago, and nobody was left on the \
     platform except a man with a small brown dog. \"We can walk,\" he said, when he saw that she had come outside. \"It \
     isn't far, and the rain has stopped.\"",
    "Plants take in carbon dioxide through small openings in their leaves. With the energy of light they turn it, \
     together with water from the soil, into sugar, and oxygen is set free. At night they breathe as animals do: sugar \
     is burned, and carbon dioxide leaves the leaf again.",
    "图书馆每天早上九点开门，晚上八点关门。借书需要出示读者证，每人最多可以借十本，期限为一个月。如果在到期之前没有人预约，\
     可以在网上续借一次。逾期的图书按天收取少量费用。",
    "学习一门新的语言需要时间和耐心。刚开始的时候，最重要的是多听多说，不要害怕出错。每天坚持半个小时，比一个星期只学一次要\
     有效得多。过几个月再回头看，你会发现自己已经进步了很多。",
];
