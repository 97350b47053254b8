//! What a dataset holds: lengths, languages, and rows that stand out.

use super::{RowEncoder, language::language};
use crate::data::example::{at_row, is_answer};
use crate::data::walk::{self, Row};
use crate::data::{Example, Registry, info};
use crate::{Places, Result, files::digest};
use api::data::{Bar, Finding, Flaw, Statistics};
use api::{Problem, RunConfig};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a dataset is looked at for the studio.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Of each kind of finding, the first so many rows are named.
const NAMED: usize = 100;
/// A histogram has at most so many bars.
const BARS: u64 = 24;

/// What one row is, apart from all others.
#[derive(Default)]
pub struct Looked {
    /// Why it can't be read.
    pub problem: Option<Problem>,
    /// Flaws that it has by itself.
    pub flaws: Vec<Flaw>,
    /// The same for the same conversation; none of a faulty row.
    pub digest: Option<u128>,
    /// Tokens before the cut, and those trained after it.
    tokens: usize,
    trained: usize,
    language: &'static str,
}

/// Looks at the rows of a dataset for at most `limit`.
pub fn statistics(
    dir: &Path,
    name: &str,
    config: &RunConfig,
    places: &Places,
    limit: Option<Duration>,
) -> Result<Statistics> {
    let began = Instant::now();
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    let encoder = RowEncoder::of(config, places)?;
    let mut counted = Counted::default();
    let mut complete = true;
    walk::in_batches(&registry, entry, &mut |batch| {
        complete = limit.is_none_or(|limit| began.elapsed() < limit);
        if !complete {
            return Ok(ControlFlow::Break(()));
        }
        let looked: Vec<Looked> = batch.par_iter().map(|row| look(row, entry, Some(&encoder))).collect();
        looked.into_iter().for_each(|looked| counted.add(looked));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(counted.finish(complete, encoder.cutoff() as u64))
}

/// What a row is. Without an encoder, nothing that needs its tokens.
pub fn look(row: &Row, entry: &info::Entry, encoder: Option<&RowEncoder>) -> Looked {
    let mut looked = Looked::default();
    let format = entry.format().map_err(|error| Box::new(error.into_problem()));
    let found = format.and_then(|format| {
        let example = walk::example(format, entry, &row.value)?;
        looked.digest = Some(identity(&example));
        looked.flaws.extend(is_empty(&example).then_some(Flaw::EmptyAnswer));
        let Some(encoder) = encoder else { return Ok(()) };
        looked.language = language(&text(&example));
        let encoded = encoder.encode(&example).map_err(|error| Box::new(error.into_problem()))?;
        (looked.tokens, looked.trained) = (encoded.whole.len(), encoded.trained());
        looked.flaws.extend((looked.trained == 0).then_some(Flaw::AllMasked));
        looked.flaws.extend(encoded.is_cut().then_some(Flaw::Truncated));
        Ok(())
    });
    if let Err(problem) = found {
        looked.problem = Some(at_row(*problem, &entry.name, row.index + 1));
        looked.flaws.push(Flaw::Faulty);
    }
    looked
}

/// The conversation, its tools and answers as a number that no other has.
fn identity(example: &Example) -> u128 {
    let tools = example.tools.as_ref().map(ToString::to_string).unwrap_or_default();
    let desirable = format!("{:?}", example.desirable);
    let rest = [example.text.as_deref().unwrap_or_default(), &tools, &desirable];
    let answers = example.chosen.iter().chain(&example.rejected);
    let messages = example.messages.iter().chain(answers).flat_map(|m| [m.role.as_str(), &m.content]);
    let digest = digest::of_parts(messages.chain(rest));
    digest.iter().take(16).fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// Whether an answer, or the text of a row of plain text, is empty.
fn is_empty(example: &Example) -> bool {
    let answers = example.messages.iter().filter(|message| is_answer(message));
    let mut answers = answers.chain(&example.chosen).chain(&example.rejected).map(|message| message.content.as_str());
    answers.any(|answer| answer.trim().is_empty()) || example.text.as_ref().is_some_and(|text| text.trim().is_empty())
}

fn text(example: &Example) -> String {
    let messages = example.messages.iter().chain(&example.chosen).filter(|message| message.role != "system");
    let parts: Vec<&str> = messages.map(|message| message.content.as_str()).chain(example.text.as_deref()).collect();
    parts.join("\n")
}

/// Rows so far.
#[derive(Default)]
struct Counted {
    rows: u64,
    trained: u64,
    /// Tokens of each row that could be read.
    lengths: Vec<u32>,
    seen: HashSet<u128>,
    findings: BTreeMap<Flaw, Finding>,
    languages: BTreeMap<&'static str, u64>,
}

impl Counted {
    fn add(&mut self, looked: Looked) {
        let row = self.rows;
        self.rows += 1;
        let mut flaws = looked.flaws;
        if let Some(digest) = looked.digest
            && !self.seen.insert(digest)
        {
            flaws.push(Flaw::Duplicate);
        }
        if looked.problem.is_none() {
            self.trained += looked.trained as u64;
            self.lengths.push(looked.tokens.try_into().unwrap_or(u32::MAX));
            *self.languages.entry(looked.language).or_default() += 1;
        }
        let mut problem = looked.problem;
        for flaw in flaws {
            let empty = || Finding { flaw, rows: 0, first: Vec::new(), problem: None };
            let finding = self.findings.entry(flaw).or_insert_with(empty);
            finding.rows += 1;
            if finding.first.len() < NAMED {
                finding.first.push(row);
            }
            if flaw == Flaw::Faulty {
                finding.problem = finding.problem.take().or_else(|| problem.take());
            }
        }
    }

    fn finish(mut self, complete: bool, cutoff_len: u64) -> Statistics {
        self.lengths.sort_unstable();
        let longest = self.lengths.last().map_or(0, |n| u64::from(*n));
        let mut languages: Vec<(String, u64)> = self.languages.into_iter().map(|(l, n)| (l.into(), n)).collect();
        languages.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        Statistics {
            rows: self.rows,
            complete,
            tokens: self.lengths.iter().map(|n| u64::from(*n)).sum(),
            trained: self.trained,
            longest,
            median: self.lengths.get(self.lengths.len() / 2).map_or(0, |n| u64::from(*n)),
            cutoff_len,
            lengths: bars(&self.lengths, longest),
            findings: self.findings.into_values().collect(),
            languages,
        }
    }
}

/// Bars of a width that is easy to read: 1, 2 or 5 with zeros behind it.
fn bars(sorted: &[u32], longest: u64) -> Vec<Bar> {
    if sorted.is_empty() {
        return Vec::new();
    }
    let mut widths = (0..).flat_map(|zeros| [1, 2, 5].map(|n| n * 10u64.pow(zeros)));
    let width = widths.find(|width| longest / width < BARS).unwrap_or(longest + 1);
    let below = |tokens: u64| sorted.partition_point(|n| u64::from(*n) < tokens) as u64;
    let bar = |i: u64| {
        let (from, to) = (i * width, (i + 1) * width);
        Bar { from, to, rows: below(to) - below(from) }
    };
    (0..=longest / width).map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_every_row() {
        for lengths in [vec![0], vec![1, 1, 2], vec![23], vec![24], (0..5000).collect(), vec![u32::MAX]] {
            let longest = lengths.last().map_or(0, |n| u64::from(*n));
            let bars = bars(&lengths, longest);
            assert!(bars.len() as u64 <= BARS && bars[0].from == 0);
            assert!(bars.windows(2).all(|pair| pair[0].to == pair[1].from));
            assert_eq!(bars.iter().map(|bar| bar.rows).sum::<u64>(), lengths.len() as u64);
        }
        assert!(bars(&[], 0).is_empty());
    }
}
