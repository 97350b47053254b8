//! The prompts of a step: rows as [`Needs::Prompts`](crate::data::Needs::Prompts) encodes them, taken apart again.

use crate::{
    Error, Result,
    data::{Encoder, Samples},
    model::Batch,
    random::{Random, mix},
    train::Run,
};
use api::Problem;
use std::collections::BTreeSet;

/// Stream of the random numbers that draw more rows.
const STREAM: u64 = 0xDA_9000;

/// What is asked, and what the row answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// With special tokens.
    pub text: String,
    pub reference: Option<String>,
}

/// The prompts of these rows.
pub fn of(samples: &Samples, rows: impl IntoIterator<Item = u32>, encoder: &Encoder) -> Result<Vec<Prompt>> {
    rows.into_iter().map(|row| prompt(&samples.batch(&[row])?, encoder)).collect()
}

/// Up to `count` rows that the step at hand has not `asked` yet: a function of step and attempt, so that a resumed run draws
/// the same.
pub fn fresh(run: &Run, asked: &BTreeSet<u32>, count: usize, attempt: u64) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..run.samples.len() as u32).filter(|row| !asked.contains(row)).collect();
    Random::new(mix(run.params.seed ^ mix(run.step)), STREAM + attempt).shuffle(&mut rows);
    rows.truncate(count);
    rows
}

/// Tokens of the longest prompt. It must leave room in the `context` for an answer; where not for one of `tokens`, that is
/// worth a note.
pub fn room(sets: [&Samples; 2], context: usize, tokens: usize) -> Result<(usize, Option<Problem>)> {
    let prompts = || sets.into_iter().flat_map(|set| (0..set.len()).map(|i| set.prompt(i)));
    let longest = prompts().max().unwrap_or(0);
    if longest >= context {
        return Err(no_room(longest, context).into());
    }
    let crowded = prompts().filter(|prompt| prompt + tokens > context).count();
    Ok((longest, (crowded > 0).then(|| little_room(crowded, context, tokens))))
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

fn no_room(longest: usize, context: usize) -> Problem {
    let most = context.saturating_sub(1);
    Problem::new(
        "no_room_for_answers",
        format!("A prompt has {longest} tokens, the model's context {context}: there is no room for an answer."),
        format!("有提示长达 {longest} 个词元，而模型的上下文为 {context}：没有余地生成回答。"),
    )
    .hint(
        format!("Set cutoff_len to {most} or less, so that longer prompts are left out."),
        format!("请将 cutoff_len 设为不超过 {most}，更长的提示会被略去。"),
    )
    .field("cutoff_len")
}

fn little_room(crowded: usize, context: usize, tokens: usize) -> Problem {
    let most = context.saturating_sub(tokens);
    let problem = Problem::new(
        "little_room_for_answers",
        format!(
            "{crowded} prompts leave room for fewer than max_new_tokens {tokens} in the context of {context}: their answers are cut there."
        ),
        format!("{crowded} 个提示在长度为 {context} 的上下文中容不下 max_new_tokens {tokens} 个词元：其回答会被截断。"),
    );
    let problem = match most {
        0 => problem.hint("Lower max_new_tokens.", "请调小 max_new_tokens。"),
        _ => problem.hint(
            format!("Lower max_new_tokens, or set cutoff_len to {most} to leave these prompts out."),
            format!("请调小 max_new_tokens，或将 cutoff_len 设为 {most} 以略去这些提示。"),
        ),
    };
    problem.field("max_new_tokens")
}
