//! A judge instead of a person (RLAIF; Lee et al., 2023; Zheng et al., 2023): the teacher sees a question and two answers
//! and names the better one. It is asked in both orders, since models favour a place; only where it names the same answer
//! twice is there a pair. Ties are kept beside, so that nothing is asked again.

use super::{Work, output::paired, teacher::Teacher};
use crate::{
    Error, Places, Result,
    data::{
        preference::{
            answers::{self, Answer, Asked},
            judged::{Tally, Verdict},
        },
        questions,
    },
};
use api::{Outcome, data::Message};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Said where no criteria are given.
const CRITERIA: &str = "helpful, correct, harmless and to the point";

pub fn run(work: &mut Work, teacher: &mut dyn Teacher, places: &Places) -> Result<Outcome> {
    let arguments = work.arguments;
    let make = &arguments.make;
    let all = answers::read(&make.dataset, &questions::find(&make.dataset, places)?)?;
    let pairs: Vec<(&Asked, &Answer, &Answer)> = all
        .iter()
        .flat_map(|asked| {
            let couples = make.pairing.couples(asked.answers.len());
            couples.map(move |(a, b)| (asked, &asked.answers[a], &asked.answers[b]))
        })
        .take(make.num_rows.unwrap_or(usize::MAX))
        .collect();
    let mut tally = Tally::default();
    let mut done = HashSet::new();
    for row in &work.output.earlier {
        if let Ok(verdicts) = serde_json::from_value(row.provenance["verdicts"].clone()) {
            tally.add(verdicts);
        }
        done.extend(row.provenance["pair"].as_str().map(str::to_owned));
    }
    told(work, &tally);
    let total = pairs.len() as u64;
    work.alive(done.len() as u64, total)?;
    for (turn, (asked, a, b)) in pairs.into_iter().enumerate() {
        let id = asked.pair(a, b);
        if done.contains(&id) {
            continue;
        }
        let verdicts = match verdicts(work, teacher, asked, [a, b], turn as u64) {
            Ok(Some(verdicts)) => verdicts,
            Ok(None) => return Ok(Outcome::Stopped),
            Err(Error::Problem(problem)) if problem.code == "prompt_length" => {
                work.count("dropped_length");
                continue;
            }
            Err(error) => return Err(error),
        };
        tally.add(verdicts);
        let mut provenance = provenance(work, teacher, &id, asked, verdicts);
        let (chosen, rejected) = if verdicts[0] == Verdict::Second { (b, a) } else { (a, b) };
        let own = chosen.on_policy.zip(rejected.on_policy);
        provenance.extend(own.map(|own| ("on_policy".to_owned(), json!(own))));
        let row = paired(&asked.prompt, &chosen.text, &rejected.text);
        let is_better = verdicts[0] == verdicts[1] && matches!(verdicts[0], Verdict::First | Verdict::Second);
        if is_better {
            work.output.add(row, provenance)?;
        } else {
            work.output.add_apart(row, provenance)?;
        }
        done.insert(id);
        told(work, &tally);
        work.made(done.len() as u64, tally.agreement().map(|share| ("agreement", share)))?;
    }
    Ok(Outcome::Succeeded)
}

/// Puts the counts into the job's summary.
fn told(work: &mut Work, tally: &Tally) {
    work.counts.insert("ties", tally.ties as f64);
    work.counts.insert("unclear", tally.unclear as f64);
    if let Some(share) = tally.agreement() {
        work.counts.insert("agreement", share);
    }
}

/// What the judge says in both orders, of the answers as they stand; nothing if the job is to stop.
fn verdicts(
    work: &Work,
    teacher: &mut dyn Teacher,
    asked: &Asked,
    [a, b]: [&Answer; 2],
    turn: u64,
) -> Result<Option<[Verdict; 2]>> {
    let mut verdicts = [Verdict::Unclear; 2];
    for (order, verdict) in verdicts.iter_mut().enumerate() {
        let (first, second) = if order == 0 { (a, b) } else { (b, a) };
        let mut options = work.options((turn << 1) | order as u64);
        options.generate.do_sample = false;
        let prompt = prompt(&asked.prompt, &first.text, &second.text, work.arguments.make.criteria.as_deref());
        let Some(said) = work.ask(teacher, &prompt, &options)? else { return Ok(None) };
        *verdict = match (read(&said.text), order) {
            (Verdict::First, 1) => Verdict::Second,
            (Verdict::Second, 1) => Verdict::First,
            (verdict, _) => verdict,
        };
    }
    Ok(Some(verdicts))
}

fn prompt(question: &str, first: &str, second: &str, criteria: Option<&str>) -> Vec<Message> {
    let criteria = criteria.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(CRITERIA);
    let text = format!(
        "Compare two answers to a question. The better answer is {criteria}. Neither the order of the answers nor their \
         length counts.\n\n[Question]\n{question}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\n[End]\nReply with \
         one of these and nothing else: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equal."
    );
    vec![Message::new("user", text)]
}

/// The verdict in what the judge said: the last letter in brackets, as thoughts may stand before it; otherwise the only
/// letter or word that it says by itself.
fn read(said: &str) -> Verdict {
    let marked = [("[[A]]", Verdict::First), ("[[B]]", Verdict::Second), ("[[C]]", Verdict::Equal)];
    let last =
        marked.iter().filter_map(|(mark, verdict)| Some((said.rfind(mark)?, *verdict))).max_by_key(|(at, _)| *at);
    if let Some((_, verdict)) = last {
        return verdict;
    }
    let word = |word: &str| match word {
        "A" => Some(Verdict::First),
        "B" => Some(Verdict::Second),
        "C" | "equal" | "Equal" | "tie" | "Tie" => Some(Verdict::Equal),
        _ => None,
    };
    let mut found = said.split(|c: char| !c.is_alphanumeric()).filter_map(word).collect::<Vec<_>>();
    found.dedup();
    if let [one] = found[..] { one } else { Verdict::Unclear }
}

fn provenance(
    work: &Work,
    teacher: &dyn Teacher,
    id: &str,
    asked: &Asked,
    verdicts: [Verdict; 2],
) -> Map<String, Value> {
    let mut provenance = Map::new();
    provenance.insert("source".into(), "judge".into());
    provenance.insert("dataset".into(), work.arguments.make.dataset.as_str().into());
    provenance.insert("teacher".into(), teacher.name().into());
    provenance.insert("pair".into(), id.into());
    provenance.insert("verdicts".into(), json!(verdicts));
    provenance.extend(asked.adversarial.then(|| ("adversarial".to_owned(), true.into())));
    provenance
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_found_in_what_judges_say() {
        for (said, verdict) in [
            ("[[A]]", Verdict::First),
            ("I first thought [[A]], but [[B]]", Verdict::Second),
            ("B", Verdict::Second),
            ("Answer A.", Verdict::First),
            ("They are equal.", Verdict::Equal),
            ("[C]", Verdict::Equal),
            ("A or B? Hard to say.", Verdict::Unclear),
            ("", Verdict::Unclear),
            ("Absolutely", Verdict::Unclear),
        ] {
            assert_eq!(read(said), verdict, "{said}");
        }
    }
}
