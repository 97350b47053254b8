//! The prompts of a step: rows as [`Needs::Prompts`](crate::data::Needs::Prompts) encodes them, taken apart again.

use crate::{Error, Result, data::Encoder, model::Batch, train::Run};

/// What is asked, and what the row answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// With special tokens.
    pub text: String,
    pub reference: Option<String>,
}

/// The prompts of the step at hand.
pub fn of(run: &Run, encoder: &Encoder) -> Result<Vec<Prompt>> {
    let indices = run.sampler.step(run.step).into_iter().flatten();
    indices.map(|index| prompt(&run.samples.batch(&[index])?, encoder)).collect()
}

/// Those of the rows that were held back.
pub fn held_back(run: &Run, encoder: &Encoder) -> Result<Vec<Prompt>> {
    (0..run.eval.len() as u32).map(|index| prompt(&run.eval.batch(&[index])?, encoder)).collect()
}

fn prompt(row: &Batch, encoder: &Encoder) -> Result<Prompt> {
    // The first row that predicts is the last of the question.
    let end = row.rows.first().map_or(row.ids.len(), |row| *row as usize + 1);
    let ids = row.ids[..end].to_vec();
    let text = decode(encoder, &ids, false)?;
    let reference = Some(decode(encoder, &row.targets, true)?).filter(|text| !text.is_empty());
    Ok(Prompt { ids, text, reference })
}

/// The text of tokens; `plain`: without special ones.
pub fn decode(encoder: &Encoder, ids: &[u32], plain: bool) -> Result<String> {
    let text = encoder.tokenizer().decode(ids, plain);
    text.map_err(|e| Error::Internal(format!("tokens could not be decoded: {e}")))
}
