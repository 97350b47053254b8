//! Search for the likeliest answers by beams, by the rules of transformers 5, and beam sampling, where the beams to go on
//! with are drawn. It knows nothing of the model: it hears scores and says which beams go on with which token.

use crate::random::Random;
use api::params::{EarlyStopping, GenerateParams};

/// A search in the making.
pub struct Search {
    beams: usize,
    /// Candidates that are looked at: enough for beams to go on with when all others end.
    keep: usize,
    length_penalty: f32,
    early_stopping: EarlyStopping,
    /// Tokens of the longest answer.
    most: usize,
    random: Option<Random>,
    running: Vec<Beam>,
    answers: Vec<Beam>,
    hopeful: bool,
    made: usize,
}

/// One beam, running or finished.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beam {
    pub ids: Vec<u32>,
    /// Sum of log probabilities; of an answer, divided by its length to the power of the penalty.
    pub score: f32,
    pub finished: bool,
    /// Which of the beams before it went on.
    pub parent: usize,
}

/// What takes a candidate out of a choice.
const OUT: f32 = -1e9;

impl Search {
    /// `ends` is how many tokens end an answer; with random numbers, beams are drawn.
    pub fn new(params: &GenerateParams, ends: usize, most: usize, random: Option<Random>) -> Self {
        let beams = params.num_beams;
        Self {
            beams,
            keep: beams * (1 + ends).max(2),
            length_penalty: params.length_penalty as f32,
            early_stopping: params.early_stopping,
            most,
            random,
            // All begin alike, so there is one at first.
            running: vec![Beam::default()],
            answers: vec![Beam { score: OUT, ..Beam::default() }; beams],
            hopeful: true,
            made: 0,
        }
    }

    /// The beams that go on, each with its last token.
    pub fn running(&self) -> &[Beam] {
        &self.running
    }

    /// The best answers so far, the best first.
    pub fn answers(&self) -> impl Iterator<Item = &Beam> {
        self.answers.iter().filter(|answer| answer.finished)
    }

    /// Takes the scores (vocab) of each running beam's next token: log probabilities, as the rules have changed them. `ends`
    /// says whether tokens are a whole answer. False when the search is over.
    pub fn advance(&mut self, scores: &[Vec<f32>], ends: impl Fn(&[u32]) -> bool) -> bool {
        self.made += 1;
        let made = self.made;
        let candidates: Vec<Beam> = self
            .candidates(scores)
            .into_iter()
            .map(|(parent, token, score)| {
                let ids: Vec<u32> = self.running[parent].ids.iter().copied().chain([token]).collect();
                let finished = made >= self.most || ends(&ids);
                Beam { ids, score, finished, parent }
            })
            .collect();
        let is_full = |answers: &[Beam]| {
            self.early_stopping == EarlyStopping::True && answers.iter().all(|answer| answer.finished)
        };
        let full = is_full(&self.answers);
        let ended = candidates.iter().take(self.beams).map(|beam| {
            let out = !beam.finished || full || !self.hopeful;
            let score = beam.score / (made as f32).powf(self.length_penalty) + if out { OUT } else { 0.0 };
            Beam { score, ..beam.clone() }
        });
        let mut answers = self.answers.clone();
        answers.extend(ended);
        self.answers = best(answers, self.beams);
        let all_ended = candidates.iter().all(|beam| beam.finished);
        let going = candidates.into_iter().map(|beam| {
            let out = if beam.finished { OUT } else { 0.0 };
            Beam { score: beam.score + out, ..beam }
        });
        self.running = best(going.collect(), self.beams);

        let never = self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0;
        let length = if never { self.most } else { made } as f32;
        let possible = self.running.first().map_or(OUT, |beam| beam.score / length.powf(self.length_penalty));
        let worst = self.answers.iter().map(|answer| answer.score).fold(f32::INFINITY, f32::min);
        self.hopeful &= self.answers.iter().any(|answer| possible > if answer.finished { worst } else { OUT });
        let full = self.early_stopping == EarlyStopping::True && self.answers.iter().all(|answer| answer.finished);
        self.hopeful && !full && !all_ended
    }

    /// The best of all beams' next tokens, or some that are drawn: beam, token, and the sum of its log probabilities.
    fn candidates(&mut self, scores: &[Vec<f32>]) -> Vec<(usize, u32, f32)> {
        let sums = scores.iter().zip(&self.running).enumerate().flat_map(|(beam, (scores, running))| {
            let sum = move |(token, score): (usize, &f32)| (beam, token as u32, score + running.score);
            scores.iter().enumerate().map(sum).filter(|(.., score)| *score > f32::NEG_INFINITY)
        });
        let Some(random) = &mut self.random else { return largest(sums.collect(), self.keep, |c| c.2) };
        // The largest sums with Gumbel noise are drawn without putting back (Kool et al., 2019).
        let drawn = sums.map(|candidate| {
            let noise = -(-(1.0 - random.uniform()).ln()).ln();
            (candidate, candidate.2 + noise as f32)
        });
        largest(drawn.collect(), self.keep, |c| c.1).into_iter().map(|(candidate, _)| candidate).collect()
    }
}

/// The `count` best beams, the best first; of equals the first.
fn best(beams: Vec<Beam>, count: usize) -> Vec<Beam> {
    largest(beams, count, |beam| beam.score)
}

fn largest<T>(items: Vec<T>, count: usize, score: impl Fn(&T) -> f32) -> Vec<T> {
    let mut items: Vec<(usize, T)> = items.into_iter().enumerate().collect();
    let order = |a: &(usize, T), b: &(usize, T)| score(&b.1).total_cmp(&score(&a.1)).then(a.0.cmp(&b.0));
    if count > 0 && count < items.len() {
        items.select_nth_unstable_by(count - 1, order);
    }
    items.truncate(count);
    items.sort_unstable_by(order);
    items.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A language of three tokens, of which 2 ends an answer, where the likeliest first token leads nowhere.
    fn next(ids: &[u32]) -> Vec<f32> {
        let shares: [f32; 3] = match ids {
            [] => [0.55, 0.45, 0.0],
            [0] => [0.5, 0.3, 0.2],
            [1] => [0.05, 0.05, 0.9],
            _ => [0.3, 0.3, 0.4],
        };
        shares.map(f32::ln).to_vec()
    }

    fn found(params: &GenerateParams, random: Option<Random>) -> Vec<Beam> {
        let mut search = Search::new(params, 1, 5, random);
        loop {
            let scores: Vec<Vec<f32>> = search.running().iter().map(|beam| next(&beam.ids)).collect();
            if !search.advance(&scores, |ids| ids.ends_with(&[2])) {
                return search.answers().cloned().collect();
            }
        }
    }

    #[test]
    fn the_likeliest_answer_is_found() {
        let params = GenerateParams { num_beams: 2, ..GenerateParams::default() };
        for early_stopping in [EarlyStopping::True, EarlyStopping::False, EarlyStopping::Never] {
            let all = found(&GenerateParams { early_stopping, ..params.clone() }, None);
            assert_eq!(all[0].ids, [1, 2], "{early_stopping:?}");
            assert!((all[0].score - (0.45f32 * 0.9).ln() / 2.0).abs() < 1e-6);
            assert!(all.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
        // Length counts for nothing, or for a lot.
        let with = |length_penalty| found(&GenerateParams { length_penalty, ..params.clone() }, None);
        assert_eq!(with(0.0)[0].ids, [1, 2]);
        assert!(with(5.0)[0].ids.len() > 2);
    }

    #[test]
    fn drawn_beams_follow_their_shares() {
        let params = GenerateParams { num_beams: 1, ..GenerateParams::default() };
        let firsts = (0..2000).map(|seed| {
            let mut search = Search::new(&params, 1, 5, Some(Random::new(seed, 0)));
            search.advance(&[next(&[])], |_| false);
            search.running()[0].ids[0]
        });
        // The better of the two that were drawn, which are all there are.
        assert!(firsts.clone().all(|first| first == 0));
        let answers: Vec<Vec<u32>> =
            (0..50).map(|seed| found(&params, Some(Random::new(seed, 0)))[0].ids.clone()).collect();
        assert!(answers.iter().any(|ids| *ids != answers[0]), "every seed draws the same");
        assert_eq!(found(&params, Some(Random::new(3, 0))), found(&params, Some(Random::new(3, 0))));
    }
}
