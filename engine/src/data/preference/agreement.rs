//! How far a judge agrees with a person on the pairs that both compared (Cohen, 1960).

use super::{
    identity,
    votes::{Found, Record},
};
use crate::Result;
use api::preference::VoteAgreement;
use std::{collections::HashMap, path::Path};

/// Counts of pairs by what the judge said and what the person said. One answer of a pair stands first by its text, so that
/// neither of the two decides which.
pub struct Compared<'a> {
    /// The dataset folder.
    dir: &'a Path,
    /// Votes by the dataset whose answers were voted on.
    records: HashMap<String, Record>,
    /// First, second, tie.
    counts: [[u64; 3]; 3],
}

impl<'a> Compared<'a> {
    pub fn new(dir: &'a Path) -> Self {
        Self { dir, records: HashMap::new(), counts: [[0; 3]; 3] }
    }

    /// Takes in what a judge said of two answers of `dataset`, the place of the better one or a tie; counts if the person
    /// said something too.
    pub fn add(&mut self, dataset: &str, prompt: &str, answers: [&str; 2], judge: Option<usize>) -> Result<()> {
        if !self.records.contains_key(dataset) {
            self.records.insert(dataset.to_owned(), Record::read(self.dir, dataset)?);
        }
        let Some(record) = self.records.get(dataset) else { return Ok(()) };
        let [a, b] = answers;
        let person = match record.better(&identity(prompt, a, b), answers) {
            Found::Better(at) => Some(at),
            Found::Tie => None,
            Found::Nothing => return Ok(()),
        };
        let said = |better: Option<usize>| better.map_or(2, |at| if a <= b { at } else { 1 - at });
        self.counts[said(judge)][said(person)] += 1;
        Ok(())
    }

    /// Nothing while no pair was compared by both.
    pub fn agreement(&self) -> Option<VoteAgreement> {
        let pairs: u64 = self.counts.iter().flatten().sum();
        let agreed: u64 = (0..3).map(|said| self.counts[said][said]).sum();
        let by_judge = |said: usize| self.counts[said].iter().sum::<u64>() as f64;
        let by_person = |said: usize| self.counts.iter().map(|row| row[said]).sum::<u64>() as f64;
        let all = pairs as f64;
        let by_chance = (0..3).map(|said| by_judge(said) * by_person(said)).sum::<f64>() / (all * all);
        let kappa = (by_chance < 1.0).then(|| (agreed as f64 / all - by_chance) / (1.0 - by_chance));
        (pairs > 0).then_some(VoteAgreement { pairs, agreed, kappa })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_is_that_of_the_textbook() {
        let of = |counts| Compared { counts, ..Compared::new(Path::new("")) }.agreement();
        // Cohen's example with two of three answers: 35 of 50 agree, chance is 0.5.
        let found = of([[20, 5, 0], [10, 15, 0], [0, 0, 0]]).unwrap_or_default();
        assert_eq!((found.pairs, found.agreed), (50, 35));
        assert!(found.kappa.is_some_and(|kappa| (kappa - 0.4).abs() < 1e-9), "{found:?}");
        assert_eq!(of([[3, 0, 0], [0; 3], [0; 3]]).map(|found| found.kappa), Some(None), "chance agrees as well");
        assert_eq!(of([[0; 3]; 3]), None);
    }
}
