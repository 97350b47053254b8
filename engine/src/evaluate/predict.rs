//! What a model makes of a dataset: the loss of the answers that stand there, its own answers, and how these compare.

use super::{
    classes::Classes,
    entities::{EntityScore, entity_score},
    numbers::{final_number, same_number},
    sacrebleu::{Tokenizer, corpus_bleu},
    similarity::Similarity,
};
use crate::{
    Error, Result,
    data::{Encoder, Example, Registry, examples},
    generate::Said,
    loaded::Loaded,
    model::Batch,
};
use api::{data::Message, params::GenerateParams};
use serde::Serialize;
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

/// Tokens whose loss is computed at once, about.
const TOKENS: usize = 2048;
/// Requests that the engine knows at once.
const AHEAD: usize = 64;

/// One row, as LLaMA-Factory's `generated_predictions.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The conversation as the model reads it.
    pub prompt: String,
    pub predict: String,
    pub label: String,
}

/// Shares are 0 to 1, BLEU and ROUGE in percent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DataReport {
    pub datasets: Vec<String>,
    pub rows: usize,
    /// Mean of `-ln p` over the tokens of the answers, and exp of it.
    pub loss: f64,
    pub perplexity: f64,
    pub tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictions: Option<Compared>,
}

/// Predictions against their labels.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    pub rows: usize,
    #[serde(flatten)]
    pub similarity: Similarity,
    pub sacrebleu: f64,
    /// How sacreBLEU found words: `13a` or `zh`.
    pub sacrebleu_tokenizer: &'static str,
    /// Equal but for blanks around them.
    pub exact_match: f64,
    /// If the labels are a few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// If the labels list entities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<EntityScore>,
    /// If most labels come to a number: how many predictions come to the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<f64>,
}

/// The rows of a dataset, at most so many; a faulty one ends the reading.
pub fn rows(registry: &Registry, name: &str, most: Option<usize>) -> Result<Vec<Example>> {
    let mut found = Vec::new();
    let most = most.map_or(u64::MAX, |n| n as u64);
    examples(registry, registry.entry(name)?, most, &mut |_, example| {
        found.push(example.map_err(|problem| *problem)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Sum of the losses of the answers and their tokens; None if `stop` was heard. What the context can't hold is cut off.
pub fn loss(
    loaded: &Loaded,
    rows: &[Example],
    stop: &AtomicBool,
    tell: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Option<(f64, usize)>> {
    let most = loaded.model.decoder().map_or(usize::MAX, |model| model.context());
    let (mut sum, mut count) = (0.0, 0);
    let mut waiting = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut sequence = loaded.encoder.conversation(row)?;
        sequence.ids.truncate(most);
        sequence.trained.truncate(most);
        if sequence.targets() > 0 {
            waiting.push(sequence);
        }
        if waiting.iter().map(|s| s.len()).sum::<usize>() >= TOKENS || i + 1 == rows.len() {
            let batch = Batch::new(waiting.iter().map(|s| (s.ids.as_slice(), s.trained.as_slice())));
            if !waiting.is_empty() {
                sum += loaded.model.loss(&batch)?;
                count += batch.targets.len();
            }
            waiting.clear();
            tell(i + 1)?;
        }
    }
    Ok(Some((sum, count)))
}

/// The question of a row and its label; None for a row without an answer.
fn asked(row: &Example) -> Option<(&[Message], &str)> {
    let (last, before) = row.messages.split_last()?;
    let is_answer = ["assistant", "function"].contains(&last.role.as_str());
    (is_answer && !before.is_empty()).then_some((before, last.content.as_str()))
}

/// The model's answers to all rows that have one, in their order; None if `stop` was heard.
pub fn predict(
    loaded: &Loaded,
    rows: &[Example],
    params: &GenerateParams,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Option<Vec<Prediction>>> {
    let mut engine = loaded.engine()?;
    let asked: Vec<_> = rows.iter().filter_map(|row| Some((row, asked(row)?))).collect();
    let mut made: Vec<Option<Prediction>> = vec![None; asked.len()];
    let (mut places, mut next, mut ended) = (HashMap::new(), 0, 0);
    while ended < asked.len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        while next < asked.len() && next < ended + AHEAD {
            let (row, (messages, _)) = asked[next];
            let request = loaded.answer(messages, row.tools.as_ref(), params.clone())?;
            places.insert(engine.add(request)?, next);
            next += 1;
        }
        for (ticket, said) in engine.step() {
            let Some(place) = places.get(&ticket).copied() else { continue };
            match said {
                Said::Ended(answer) if made[place].is_none() => {
                    let (row, (messages, label)) = asked[place];
                    let prompt = shown(&loaded.encoder, row, messages)?;
                    made[place] = Some(Prediction { prompt, predict: answer.text, label: label.to_owned() });
                }
                Said::Done(_) => {
                    ended += 1;
                    tell(ended)?;
                }
                Said::Failed(problem) => return Err(problem.into()),
                Said::Ended(_) | Said::Text { .. } => {}
            }
        }
    }
    Ok(Some(made.into_iter().flatten().collect()))
}

/// What the model reads, as text.
fn shown(encoder: &Encoder, row: &Example, messages: &[Message]) -> Result<String> {
    let ids = encoder.prompt(messages, row.tools.as_ref())?;
    encoder.tokenizer().decode(&ids, false).map_err(|e| Error::Internal(format!("tokens could not be decoded: {e}")))
}

impl Compared {
    pub fn of(predictions: &[Prediction]) -> Self {
        let pairs = || predictions.iter().map(|p| (p.predict.as_str(), p.label.as_str()));
        let similarities: Vec<Similarity> = pairs().map(|(found, wanted)| Similarity::of(found, wanted)).collect();
        let tokenizer = Tokenizer::for_texts(pairs().map(|(_, wanted)| wanted));
        let share = |n: usize| n as f64 / predictions.len().max(1) as f64;
        let marked = pairs().filter(|(_, wanted)| wanted.contains("####") && final_number(wanted).is_some()).count();
        Self {
            rows: predictions.len(),
            similarity: Similarity::mean(&similarities),
            sacrebleu: corpus_bleu(&pairs().collect::<Vec<_>>(), tokenizer),
            sacrebleu_tokenizer: tokenizer.name(),
            exact_match: share(pairs().filter(|(found, wanted)| found.trim() == wanted.trim()).count()),
            // As many labels as rows are no classes.
            classes: Classes::of(pairs()).filter(|classes| classes.labels.len() * 2 <= predictions.len()),
            entities: entity_score(pairs()),
            numbers: (marked * 2 > predictions.len())
                .then(|| share(pairs().filter(|(found, wanted)| same_number(found, wanted)).count())),
        }
    }
}
