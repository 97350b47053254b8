//! The pairs that one dataset gives, by what its rows are: pairs, scored or ranked answers, samples that were voted on.

use super::{Pair, agreement::Compared, answers, identity, judged, prompt_of, votes};
use crate::{
    Places, Result,
    data::{Example, Kind, Registry, info, questions, walk},
};
use answers::{Answer, Asked};
use api::{
    data::Message,
    preference::{Origin, Pairing, SourceCount},
};
use serde_json::Value;
use std::ops::ControlFlow;

/// The pairs of a dataset and what is to be said of it; who names the source comes later.
pub fn of(registry: &Registry, name: &str, pairing: Pairing, places: &Places) -> Result<(Vec<Pair>, SourceCount)> {
    let entry = registry.entry(name)?;
    if entry.format()?.kind(entry) == Kind::Preferences {
        return written(registry, entry);
    }
    let asked = answers::read(name, &questions::of_dataset(name, places)?)?;
    let record = votes::Record::read(registry.dir(), name)?;
    let mut count = SourceCount::default();
    let mut pairs = Vec::new();
    for asked in &asked {
        voted(asked, &record, &mut pairs, &mut count);
        ordered(asked, pairing, &mut pairs);
    }
    Ok((pairs, count))
}

/// Rows that are pairs; those of a judge's job say how the other pairs ended.
fn written(registry: &Registry, entry: &info::Entry) -> Result<(Vec<Pair>, SourceCount)> {
    let format = entry.format()?;
    let (mut pairs, mut compared) = (Vec::new(), Compared::new(registry.dir()));
    walk::walk(registry, entry, &mut |index, raw| {
        let example = walk::example(format, entry, &raw.value)
            .map_err(|problem| crate::data::example::at_row(*problem, &entry.name, index + 1))?;
        if let Ok(Value::Object(row)) = &raw.value {
            let provenance = row.get("provenance").unwrap_or(&Value::Null);
            let origin = serde_json::from_value(provenance["source"].clone()).unwrap_or(Origin::Pairs);
            let score = |name: &str| row.get(name).and_then(answers::number);
            let scores = score("score_chosen").zip(score("score_rejected"));
            let gap = scores.map(|(chosen, rejected)| chosen - rejected).or(provenance["gap"].as_f64());
            let on_policy = serde_json::from_value(provenance["on_policy"].clone()).ok();
            let pair = pair(example, origin, gap, on_policy, answers::is_adversarial(row));
            if let (Origin::Judge, Some(of)) = (origin, provenance["dataset"].as_str()) {
                compared.add(of, &prompt_of(&pair.example), pair.answers(), Some(0))?;
            }
            pairs.push(pair);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let is_judged = pairs.iter().any(|pair| pair.origin == Origin::Judge);
    let mut count = SourceCount::default();
    if is_judged {
        let ties = registry.dir().join(format!("{}.jsonl", judged::ties_of(&entry.name)));
        let mut tally = judged::Tally { better: pairs.len() as u64, ..judged::Tally::default() };
        judged::each_tie(&ties, &mut |verdicts, row| {
            tally.add(verdicts);
            let text = |name: &str| row[name].as_str().unwrap_or_default();
            match row["provenance"]["dataset"].as_str() {
                Some(of) if !verdicts.contains(&judged::Verdict::Unclear) => {
                    compared.add(of, text("instruction"), [text("chosen"), text("rejected")], None)
                }
                _ => Ok(()),
            }
        })?;
        (count.ties, count.agreement, count.with_votes) = (tally.ties, tally.agreement(), compared.agreement());
    }
    Ok((pairs, count))
}

/// Pairs of which a person said which answer is better.
fn voted(asked: &Asked, record: &votes::Record, pairs: &mut Vec<Pair>, count: &mut SourceCount) {
    if record.is_empty() {
        return;
    }
    for (a, b) in Pairing::All.couples(asked.answers.len()) {
        let (a, b) = (&asked.answers[a], &asked.answers[b]);
        match record.better(&asked.pair(a, b), [&a.text, &b.text]) {
            votes::Found::Better(i) => {
                let (chosen, rejected) = if i == 0 { (a, b) } else { (b, a) };
                pairs.push(of_answers(asked, chosen, rejected, Origin::Votes, None));
            }
            votes::Found::Tie => count.ties += 1,
            votes::Found::Nothing => {}
        }
    }
}

/// Pairs of answers with different scores, or at different places of a ranking.
fn ordered(asked: &Asked, pairing: Pairing, pairs: &mut Vec<Pair>) {
    let mut all: Vec<&Answer> = asked.answers.iter().filter(|a| asked.ranked || a.score.is_some()).collect();
    if !asked.ranked {
        all.sort_by(|a, b| f64::total_cmp(&b.score.unwrap_or_default(), &a.score.unwrap_or_default()));
    }
    for (better, worse) in pairing.couples(all.len()) {
        let (better, worse) = (all[better], all[worse]);
        let gap = if asked.ranked { None } else { better.score.zip(worse.score).map(|(a, b)| a - b) };
        if gap != Some(0.0) {
            let origin = if asked.ranked { Origin::Ranking } else { Origin::Scores };
            pairs.push(of_answers(asked, better, worse, origin, gap));
        }
    }
}

fn of_answers(asked: &Asked, chosen: &Answer, rejected: &Answer, origin: Origin, gap: Option<f64>) -> Pair {
    let answer = |answer: &Answer| Some(Message::new("assistant", answer.text.as_str()));
    let example = Example {
        messages: vec![Message::new("user", asked.prompt.as_str())],
        chosen: answer(chosen),
        rejected: answer(rejected),
        ..Example::default()
    };
    let on_policy = chosen.on_policy.zip(rejected.on_policy).map(|(a, b)| [a, b]);
    pair(example, origin, gap, on_policy, asked.adversarial)
}

fn pair(example: Example, origin: Origin, gap: Option<f64>, on_policy: Option<[bool; 2]>, adversarial: bool) -> Pair {
    let mut pair = Pair { example, source: 0, origin, gap, on_policy, adversarial, id: String::new() };
    let [chosen, rejected] = pair.answers();
    pair.id = identity(&prompt_of(&pair.example), chosen, rejected);
    pair
}
