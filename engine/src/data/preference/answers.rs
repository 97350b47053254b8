//! Prompts with several answers: rows of samples, of scored answers and of ranked ones.

use super::identity;
use crate::{
    Result,
    data::{Row, questions::Questions},
};
use api::Problem;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

/// Columns that hold several answers, and those whose answers stand in their order.
const LISTS: [&str; 5] = ["answers", "responses", "completions", "candidates", "outputs"];
const RANKINGS: [&str; 2] = ["ranking", "ranked"];
/// Columns of one answer, where no entry names it, and keys of an answer in a list.
const ONE: [&str; 6] = ["output", "response", "answer", "completion", "text", "content"];
/// Columns and keys of a score, and lists of them beside a list of answers.
const SCORES: [&str; 4] = ["score", "rating", "reward", "overall_score"];
const SCORE_LISTS: [&str; 3] = ["scores", "ratings", "rewards"];
/// Bytes of answers that are compared at once; a dataset of more is cut into several.
const MOST_BYTES: usize = 512 << 20;

/// A prompt and what was answered to it, each answer once.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub prompt: String,
    pub adversarial: bool,
    /// The best one stands first.
    pub ranked: bool,
    pub answers: Vec<Answer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    pub score: Option<f64>,
    /// Whether the model that is trained wrote it, where the row tells.
    pub on_policy: Option<bool>,
}

impl Asked {
    /// The identity of a pair of its answers, whatever their order.
    pub fn pair(&self, a: &Answer, b: &Answer) -> String {
        identity(&self.prompt, &a.text, &b.text)
    }
}

/// The prompts of `dataset` that have at least two different answers, in the order of their first rows; one at least.
pub fn read(dataset: &str, rows: &Questions) -> Result<Vec<Asked>> {
    let (mut all, mut known, mut bytes) = (Vec::<Asked>::new(), HashMap::<String, usize>::new(), 0);
    rows.each_row(&mut |row| {
        let Some(prompt) = rows.of(&row) else { return Ok(ControlFlow::Continue(())) };
        let (ranked, answers) = match several(&row) {
            Some((ranked, answers)) => (ranked, answers),
            None => (false, one(&row, rows).into_iter().collect()),
        };
        bytes += prompt.len() + answers.iter().map(|answer| answer.text.len()).sum::<usize>();
        if bytes > MOST_BYTES {
            return Err(too_large(dataset).into());
        }
        let asked = Asked { prompt, adversarial: is_adversarial(&row), ranked, answers };
        // Places in one order say nothing about those in another.
        match known.get(&asked.prompt) {
            Some(at) if !ranked && !all[*at].ranked => {
                all[*at].adversarial |= asked.adversarial;
                all[*at].answers.extend(asked.answers);
            }
            _ => {
                known.insert(asked.prompt.clone(), all.len());
                all.push(asked);
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for asked in &mut all {
        let mut seen = HashSet::new();
        asked.answers.retain(|answer| !answer.text.trim().is_empty() && seen.insert(answer.text.clone()));
    }
    all.retain(|asked| asked.answers.len() > 1);
    if all.is_empty() {
        return Err(none(dataset).into());
    }
    Ok(all)
}

/// Whether a row says that its prompt tries to lead the model astray: a column `adversarial`, or that word in `tags`, in
/// the row itself or in its provenance.
pub fn is_adversarial(row: &Row) -> bool {
    let says = |row: &Row| {
        let tagged = |tag: &Value| tag.as_str().is_some_and(|tag| tag.eq_ignore_ascii_case("adversarial"));
        let tags = row.get("tags").or(row.get("tag"));
        row.get("adversarial").and_then(Value::as_bool).unwrap_or_default()
            || tags.is_some_and(|tags| tagged(tags) || tags.as_array().is_some_and(|all| all.iter().any(tagged)))
    };
    says(row) || row.get("provenance").and_then(Value::as_object).is_some_and(says)
}

/// The answers of a row with a list of them, and whether they are ranked.
fn several(row: &Row) -> Option<(bool, Vec<Answer>)> {
    let list = |names: &[&str]| names.iter().find_map(|name| row.get(*name)?.as_array());
    if let Some(ranking) = list(&RANKINGS) {
        return Some((true, ranking.iter().filter_map(answer).collect()));
    }
    let (scores, ranks) = (list(&SCORE_LISTS), list(&["ranks"]));
    let mut placed = Vec::new();
    for (i, value) in list(&LISTS)?.iter().enumerate() {
        let Some(mut answer) = answer(value) else { continue };
        let at = |values: Option<&Vec<Value>>| values?.get(i).and_then(number);
        answer.score = answer.score.or(at(scores));
        placed.push((at(ranks), answer));
    }
    let ranked = placed.iter().all(|(rank, _)| rank.is_some()) && ranks.is_some();
    if ranked {
        placed.sort_by(|(a, _), (b, _)| f64::total_cmp(&a.unwrap_or_default(), &b.unwrap_or_default()));
    }
    Some((ranked, placed.into_iter().map(|(_, answer)| answer).collect()))
}

/// The answer of a row with one.
fn one(row: &Row, rows: &Questions) -> Option<Answer> {
    let named = rows.entry.as_ref().and_then(|entry| entry.columns.response.as_deref());
    let text = named.into_iter().chain(ONE).find_map(|name| row.get(name)?.as_str())?;
    let provenance = row.get("provenance");
    let score = SCORES.iter().find_map(|name| number(row.get(*name).or_else(|| provenance?.get(*name))?));
    let on_policy = provenance.and_then(|provenance| provenance.get("on_policy")?.as_bool());
    Some(Answer { text: text.to_owned(), score, on_policy })
}

/// An answer in a list: a text, or an object with one.
fn answer(value: &Value) -> Option<Answer> {
    if let Some(text) = value.as_str() {
        return Some(Answer { text: text.to_owned(), ..Answer::default() });
    }
    let text = ONE.iter().find_map(|name| value.get(*name)?.as_str())?.to_owned();
    let score = SCORES.iter().find_map(|name| number(value.get(*name)?));
    Some(Answer { text, score, on_policy: value.get("on_policy").and_then(Value::as_bool) })
}

/// A number, also one that is written as a text, as in files of ratings.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    number.is_finite().then_some(number)
}

/// The problem of a dataset without anything to compare.
fn none(dataset: &str) -> Problem {
    Problem::new(
        "no_answers",
        format!("No prompt of dataset {dataset} has two different answers, and its rows are no pairs."),
        format!("数据集 {dataset} 中没有带两个不同回答的提示，其各行也不是成对的回答。"),
    )
    .hint(
        "Sample answers to its prompts first, or give rows with answers and scores or a ranking.",
        "请先为其提示采样回答，或提供带有 answers 与 scores、ranking 等列的数据。",
    )
    .field("dataset")
}

fn too_large(dataset: &str) -> Problem {
    let most = MOST_BYTES >> 20;
    Problem::new(
        "answers_too_large",
        format!("Dataset {dataset} has more than {most} MB of answers; they are compared at once."),
        format!("数据集 {dataset} 的回答超过 {most} MB，无法一次比较。"),
    )
    .hint("Cut it into several datasets.", "请将其拆分为多个数据集。")
    .field("dataset")
}
