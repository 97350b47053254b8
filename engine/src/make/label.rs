//! Pseudo-labelling (Lee, 2013): the teacher answers rows that have no answer. Answers that it is sure of become rows; the
//! others are kept apart, for a look.

use super::{
    Work,
    output::answered,
    prompt_hash,
    teacher::{Options, Teacher, unsure},
    words,
};
use crate::{Error, Places, Result, data::questions};
use api::{Outcome, data::Message};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashSet},
    ops::ControlFlow,
};

pub fn run(work: &mut Work, teacher: &mut dyn Teacher, places: &Places) -> Result<Outcome> {
    let arguments = work.arguments;
    let make = &arguments.make;
    let source = questions::find(&make.dataset, places)?;
    let total = source.rows()?.min(make.num_rows.map_or(u64::MAX, |n| n as u64));
    let done: HashSet<u64> = work.output.earlier.iter().filter_map(|row| row.provenance["row"].as_u64()).collect();
    let mut outcome = Outcome::Succeeded;
    work.alive(0, total)?;
    source.each(&mut |row, question| {
        if row >= total {
            return Ok(ControlFlow::Break(()));
        }
        let Some(question) = question else {
            work.count("dropped_empty");
            return Ok(ControlFlow::Continue(()));
        };
        if done.contains(&row) {
            return Ok(ControlFlow::Continue(()));
        }
        let confidence = match one(work, teacher, row, &question) {
            Ok(Some(confidence)) => Some(confidence),
            Ok(None) => {
                outcome = Outcome::Stopped;
                return Ok(ControlFlow::Break(()));
            }
            Err(Error::Problem(problem)) if problem.code == "prompt_length" => {
                work.count("dropped_length");
                None
            }
            Err(error) => return Err(error),
        };
        work.made(row + 1, confidence.map(|confidence| ("confidence", confidence)))?;
        Ok(ControlFlow::Continue(()))
    })?;
    let kept = work.output.apart_rows();
    work.counts.insert("unsure", kept as f64);
    Ok(outcome)
}

/// Answers a row and writes it; how sure the teacher is, or nothing if the job is to stop.
fn one(work: &mut Work, teacher: &mut dyn Teacher, row: u64, question: &str) -> Result<Option<f64>> {
    let arguments = work.arguments;
    let make = &arguments.make;
    let asked = match make.question.as_deref().filter(|q| !q.trim().is_empty()) {
        Some(template) if template.contains("{text}") => template.replace("{text}", question),
        Some(template) => format!("{template}\n{question}"),
        None => question.to_owned(),
    };
    let prompt = [Message::new("user", asked.clone())];
    let samples = make.samples.unwrap_or(1);
    let mut answers = Vec::new();
    for sample in 0..samples as u64 {
        let turn = (row << 8) | sample;
        let options = Options { surely: samples == 1, ..work.options(turn) };
        let Some(said) = work.ask(teacher, &prompt, &options)? else { return Ok(None) };
        answers.push(said);
    }
    let (text, confidence) = match answers.as_slice() {
        [one] => (one.text.trim().to_owned(), one.confidence.ok_or_else(|| unsure(&teacher.name()))?),
        all => agreed(&all.iter().map(|said| said.text.trim()).collect::<Vec<_>>()),
    };
    let confidence = if text.is_empty() { 0.0 } else { confidence };
    let provenance = json!({
        "source": "pseudo_label", "dataset": make.dataset, "row": row, "teacher": teacher.name(),
        "confidence": (confidence * 1e4).round() / 1e4, "samples": samples, "prompt_hash": prompt_hash(&prompt)?,
    });
    let provenance = provenance.as_object().cloned().unwrap_or_default();
    if confidence >= make.confidence && !text.is_empty() {
        work.output.add(answered(&asked, &text), provenance)?;
    } else {
        work.output.add_apart(answered(&asked, &text), provenance)?;
    }
    Ok(Some(confidence))
}

/// The answer that most of several are, by their words, in the form in which it came first; and the share that it has.
fn agreed(answers: &[&str]) -> (String, f64) {
    let mut counts: BTreeMap<Vec<String>, (usize, usize)> = BTreeMap::new();
    for (i, answer) in answers.iter().enumerate() {
        counts.entry(words(answer)).or_insert((0, i)).0 += 1;
    }
    let most = counts.values().max_by_key(|(count, first)| (*count, std::cmp::Reverse(*first)));
    let (count, first) = most.copied().unwrap_or_default();
    (answers.get(first).map(|a| (*a).to_owned()).unwrap_or_default(), count as f64 / answers.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_that_most_give_counts() {
        assert_eq!(agreed(&["No.", "yes", "Yes!", "no idea", "YES"]), ("yes".into(), 0.6));
        assert_eq!(agreed(&["a", "b"]), ("a".into(), 0.5));
        assert_eq!(agreed(&["", "", "b"]), (String::new(), 2.0 / 3.0));
    }
}
