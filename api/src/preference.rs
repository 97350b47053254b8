//! Pairs of answers, one better than the other: where they come from, which are kept, and the votes of a person.

use crate::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What says that one answer is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A person, blind.
    Votes,
    /// A model that was asked in both orders.
    Judge,
    /// Scores of the answers.
    Scores,
    /// The order of ranked answers.
    Ranking,
    /// The dataset itself: its rows are pairs.
    Pairs,
}

/// Which of several answers to a prompt are compared with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Pairing {
    // Each with each: k (k - 1) / 2 pairs of k answers.
    #[default]
    All,
    // Each with the next one: k - 1 pairs.
    Adjacent,
}

impl Pairing {
    /// Places of the compared ones among `count` answers, each time the earlier one first.
    pub fn couples(self, count: usize) -> impl Iterator<Item = (usize, usize)> {
        let reach = if self == Self::All { count } else { 1 };
        (1..=reach.min(count.saturating_sub(1))).flat_map(move |far| (0..count - far).map(move |i| (i, i + far)))
    }
}

/// Which prompts are wanted, by their tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adversarial {
    #[default]
    Any,
    Only,
    Without,
}

/// A dataset that pairs come from. It may hold pairs, scored or ranked answers, or several answers to a prompt that a
/// person voted on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairSource {
    pub dataset: String,
    /// How often its pairs come: 2 is twice each, 0.5 every second one.
    pub weight: f64,
}

impl Default for PairSource {
    fn default() -> Self {
        Self { dataset: String::new(), weight: 1.0 }
    }
}

/// Which pairs are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairFilter {
    /// Of scored and ranked answers.
    pub pairing: Pairing,
    /// Pairs whose scores lie closer are dropped; equal scores make no pair in any case.
    pub min_gap: f64,
    /// Hard pairs only: those whose scores lie at most so far apart. Pairs without scores stay.
    pub max_gap: Option<f64>,
    pub adversarial: Adversarial,
    /// At least this share of the answers comes from the model that is trained, 0 to 1: pairs of others are dropped until
    /// it does.
    pub on_policy: f64,
}

impl Default for PairFilter {
    fn default() -> Self {
        Self { pairing: Pairing::All, min_gap: 0.0, max_gap: None, adversarial: Adversarial::Any, on_policy: 0.0 }
    }
}

/// Body of `POST /api/preferences/pairs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PairsWanted {
    /// Where two sources have the same two answers, the earlier one counts.
    pub sources: Vec<PairSource>,
    pub filter: PairFilter,
    /// Shown are only pairs of this origin, if given.
    pub origin: Option<Origin>,
    /// Of the kept pairs, shown from this one on.
    pub offset: u64,
    /// At most so many; 200 at most.
    pub limit: u64,
}

/// What the sources come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pairs {
    /// Before the filters, and behind them.
    pub found: u64,
    pub kept: u64,
    /// Rows of a dataset of them, with the weights of the sources.
    pub rows: u64,
    pub dropped: DroppedPairs,
    pub sources: Vec<SourceCount>,
    /// Share of the answers in the kept pairs that come from the model that is trained; nothing where no pair tells.
    pub on_policy: Option<f64>,
    /// Kept pairs of the wanted origin.
    pub matching: u64,
    pub offset: u64,
    pub pairs: Vec<ShownPair>,
}

/// How many pairs each filter drops, in the order in which they are applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DroppedPairs {
    /// An earlier source has the same two answers.
    pub duplicate: u64,
    pub min_gap: u64,
    pub max_gap: u64,
    pub adversarial: u64,
    pub on_policy: u64,
}

/// What one dataset gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceCount {
    pub dataset: String,
    /// What its pairs come from; a dataset of samples can have scores and votes.
    pub origins: Vec<Origin>,
    pub found: u64,
    pub kept: u64,
    /// Of votes and a judge: compared without a better one.
    pub ties: u64,
    /// Of a judge: share of the pairs on which its two verdicts, in both orders, agree.
    pub agreement: Option<f64>,
    /// Of a judge: how far it agrees with the votes of a person, where both compared the same answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_votes: Option<VoteAgreement>,
    /// Why it gives none.
    pub problem: Option<Problem>,
}

/// How far a judge and a person agree on the pairs that both compared; each said which answer is better, or a tie.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VoteAgreement {
    pub pairs: u64,
    pub agreed: u64,
    /// Cohen's: 1 is always, 0 as often as by chance. Nothing where chance alone would agree always.
    pub kappa: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShownPair {
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    pub dataset: String,
    pub origin: Origin,
    /// Difference of the scores.
    pub gap: Option<f64>,
    pub adversarial: bool,
}

/// What the rows of a new dataset are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairRows {
    /// A better and a worse answer each, for `dpo` and `rm`.
    #[default]
    Ranking,
    /// One answer each that is wanted or not, for `kto`.
    Kto,
}

/// Body of `POST /api/preferences/dataset`, answers a [`DatasetInfo`](crate::data::DatasetInfo).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BuildPairs {
    /// Name of the new dataset.
    pub name: String,
    pub sources: Vec<PairSource>,
    pub filter: PairFilter,
    pub rows: PairRows,
    /// `alpaca` (also if empty), `sharegpt` or `openai`.
    pub formatting: String,
}

/// Two answers, side by side, without a word on who wrote which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BallotPair {
    /// Of the prompt and the two answers, whatever their order.
    pub id: String,
    pub prompt: String,
    pub left: String,
    pub right: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    Left,
    Right,
    Tie,
    Skip,
    /// Takes back the vote on this pair; with an empty id, the last one.
    Undo,
}

/// Body of `POST /api/preferences/votes/{name}`, answers the [`Ballot`] behind it. The vote is on the disk by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CastVote {
    /// [`BallotPair::id`].
    pub pair: String,
    pub vote: Vote,
}

/// How far the votes on a dataset's answers are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ballot {
    pub dataset: String,
    /// Pairs that can be voted on, and those that were, skipped ones too.
    pub pairs: u64,
    pub voted: u64,
    pub ties: u64,
    pub skipped: u64,
    /// What is asked next, in this order; empty at the end.
    pub next: Vec<BallotPair>,
    /// Whether there is a vote to take back.
    pub undoable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn couples_are_all_or_neighbours() {
        let couples = |pairing: Pairing, count| pairing.couples(count).collect::<Vec<_>>();
        assert_eq!(couples(Pairing::Adjacent, 4), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(couples(Pairing::All, 4), [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)]);
        for count in 0..9 {
            assert_eq!(couples(Pairing::All, count).len(), count * count.saturating_sub(1) / 2);
            assert_eq!(couples(Pairing::Adjacent, count).len(), count.saturating_sub(1));
        }
    }
}
