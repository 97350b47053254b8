//! Pairs of answers, one better than the other, for `dpo`, `rm` and `kto`: from a person's votes, a judge, scores and
//! rankings; filters that keep the telling ones; and datasets made of them.

mod agreement;
pub mod answers;
mod build;
mod filter;
mod found;
pub mod judged;
pub mod votes;

pub use build::build;

use crate::{
    Places, Result,
    data::{Example, Registry},
};
use api::preference::{DroppedPairs, Origin, PairFilter, PairSource, Pairs, PairsWanted, ShownPair, SourceCount};
use sha2::{Digest, Sha256};

/// Pairs shown at once, and characters of a text that is shown.
const MOST_SHOWN: u64 = 200;
const LONGEST_SHOWN: usize = 2000;

/// Two answers to a prompt.
#[derive(Clone, Debug)]
struct Pair {
    /// With `chosen` and `rejected`.
    example: Example,
    /// Place of its source.
    source: usize,
    origin: Origin,
    /// Difference of the scores.
    gap: Option<f64>,
    /// Whether the model that is trained wrote the better one, and the worse one.
    on_policy: Option<[bool; 2]>,
    adversarial: bool,
    /// The prompt and both answers, whatever their order.
    id: String,
}

/// What the sources come to, and the filters leave.
struct Kept {
    pairs: Vec<Pair>,
    found: u64,
    dropped: DroppedPairs,
    counts: Vec<SourceCount>,
}

impl Pair {
    fn answers(&self) -> [&str; 2] {
        [&self.example.chosen, &self.example.rejected]
            .map(|answer| answer.as_ref().map_or("", |message| &message.content))
    }

    /// How many of its two answers the model that is trained wrote.
    fn own(&self) -> usize {
        self.on_policy.map_or(0, |own| own.iter().filter(|own| **own).count())
    }

    /// How often it comes in a dataset if its source has this weight: the fraction left is a matter of its id.
    fn times(&self, weight: f64) -> u64 {
        let chance =
            u64::from_str_radix(self.id.get(..8).unwrap_or_default(), 16).unwrap_or_default() as f64 / 2f64.powi(32);
        weight as u64 + u64::from(chance < weight.fract())
    }
}

/// Pairs and counts, for the page.
pub fn pairs(wanted: &PairsWanted, places: &Places) -> Result<Pairs> {
    let Kept { pairs, found, dropped, counts } = kept(&wanted.sources, &wanted.filter, places)?;
    let told: Vec<&Pair> = pairs.iter().filter(|pair| pair.on_policy.is_some()).collect();
    let own: usize = told.iter().map(|pair| pair.own()).sum();
    let weight = |pair: &Pair| wanted.sources.get(pair.source).map_or(1.0, |source| source.weight);
    let matching: Vec<&Pair> = pairs.iter().filter(|pair| wanted.origin.is_none_or(|o| o == pair.origin)).collect();
    let (offset, limit) = (wanted.offset as usize, wanted.limit.min(MOST_SHOWN) as usize);
    let shown = matching.iter().skip(offset).take(limit).map(|pair| {
        let [chosen, rejected] = pair.answers().map(cut);
        ShownPair {
            prompt: cut(&prompt_of(&pair.example)),
            chosen,
            rejected,
            dataset: counts.get(pair.source).map(|count| count.dataset.clone()).unwrap_or_default(),
            origin: pair.origin,
            gap: pair.gap,
            adversarial: pair.adversarial,
        }
    });
    Ok(Pairs {
        found,
        kept: pairs.len() as u64,
        rows: pairs.iter().map(|pair| pair.times(weight(pair))).sum(),
        on_policy: (!told.is_empty()).then(|| own as f64 / (2 * pairs.len()) as f64),
        matching: matching.len() as u64,
        offset: wanted.offset,
        pairs: shown.collect(),
        dropped,
        sources: counts,
    })
}

/// All pairs of the sources that the filters leave. A source that can't be read has its problem in its count.
fn kept(sources: &[PairSource], filter: &PairFilter, places: &Places) -> Result<Kept> {
    filter::check(sources, filter)?;
    let registry = Registry::open(places.datasets())?;
    let (mut all, mut counts) = (Vec::new(), Vec::new());
    for (at, source) in sources.iter().enumerate() {
        let (pairs, mut count) =
            found::of(&registry, &source.dataset, filter.pairing, places).unwrap_or_else(|error| {
                (Vec::new(), SourceCount { problem: Some(error.into_problem()), ..SourceCount::default() })
            });
        (count.dataset, count.found) = (source.dataset.clone(), pairs.len() as u64);
        for pair in &pairs {
            if !count.origins.contains(&pair.origin) {
                count.origins.push(pair.origin);
            }
        }
        counts.push(count);
        all.extend(pairs.into_iter().map(|pair| Pair { source: at, ..pair }));
    }
    let found = all.len() as u64;
    let (pairs, dropped) = filter::apply(all, filter);
    for pair in &pairs {
        counts[pair.source].kept += 1;
    }
    Ok(Kept { pairs, found, dropped, counts })
}

/// The identity of two answers to a prompt, whatever their order: 16 hexadecimal digits.
fn identity(prompt: &str, a: &str, b: &str) -> String {
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    let mut hash = Sha256::new();
    for text in [prompt, first, second] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The prompt as a text: a question, or the turns of a conversation.
fn prompt_of(example: &Example) -> String {
    match example.messages.as_slice() {
        [one] => one.content.clone(),
        all => all.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("\n\n"),
    }
}

fn cut(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
