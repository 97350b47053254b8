//! What a run learns from: pieces of encoded datasets in an order, mixed, split and packed. The tokens stay on the disk.

mod part;

pub use part::{Part, shorten, shortened};

use super::SpoolWriter;
use crate::{Result, model::Batch, random::Random};
use api::{Problem, params::MixStrategy};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// A piece of one of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    part: u32,
    piece: u32,
}

/// Samples in an order: a training set, a validation set. Each is one piece, or several that were packed together; pieces
/// never see each other.
#[derive(Clone)]
pub struct Samples {
    parts: Arc<[Part]>,
    places: Arc<[Place]>,
    /// Where each sample ends in `places`; `None` if each has one.
    ends: Option<Arc<[u32]>>,
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} samples of {} datasets", self.len(), self.parts.len())
    }
}

impl Samples {
    /// The pieces of all parts that have something to learn, one part after the other.
    pub fn of(parts: Vec<Part>) -> Self {
        let all = parts.iter().zip(0..).flat_map(|(part, number)| pieces(part, number));
        let places = all.collect();
        Self { parts: parts.into(), places, ends: None }
    }

    /// As [`of`](Self::of), mixed: `shares` (any positive numbers, one a part; empty: in turns) say how often a part comes.
    /// The order depends on the arguments alone.
    ///
    /// - `concat`: one part after the other; shares mean nothing.
    /// - `interleave_under`: until the first part is used up; what is left of the others stays out.
    /// - `interleave_over`: until every part was used up; shorter ones begin again.
    pub fn mixed(parts: Vec<Part>, strategy: MixStrategy, shares: &[f64], seed: u64) -> Self {
        if strategy == MixStrategy::Concat || parts.len() < 2 {
            return Self::of(parts);
        }
        let lists = parts.iter().zip(0..).map(|(part, number)| pieces(part, number).collect::<Vec<_>>());
        let drawn = !shares.is_empty();
        let share = |part: usize| shares.get(part).copied().unwrap_or(f64::from(u8::from(!drawn)));
        // What has no pieces can't take turns.
        let lists = lists.enumerate().filter(|(part, list)| !list.is_empty() && share(*part) > 0.0);
        let (lists, shares): (Vec<_>, Vec<f64>) = lists.map(|(part, list)| (list, share(part))).unzip();
        let places = interleave(&lists, strategy, drawn.then_some(&shares), seed);
        Self { parts: parts.into(), places: places.into(), ends: None }
    }

    /// Samples of a spool that aren't cut.
    pub fn whole(writer: SpoolWriter) -> Result<Self> {
        Ok(Self::of(vec![Part::rows(Arc::new(writer.finish()?), usize::MAX)?]))
    }

    /// Those of both, these first.
    pub fn and(self, other: Self) -> Self {
        let before = self.parts.len() as u32;
        let moved = other.places.iter().map(|place| Place { part: place.part + before, ..*place });
        let places = self.places.iter().copied().chain(moved).collect();
        Self { parts: self.parts.iter().chain(other.parts.iter()).cloned().collect(), places, ends: None }
    }

    /// Holds back a share (`val_size` under 1) or a number of samples: `(to train on, held back)`, both in their old order.
    /// The choice depends on `seed` and the number of samples alone.
    pub fn split(self, val_size: f64, seed: u64) -> Result<(Self, Self)> {
        let n = self.len();
        let held = if val_size < 1.0 { (n as f64 * val_size.max(0.0)).ceil() } else { val_size.floor() };
        if held > 0.0 && held >= n as f64 {
            return Err(Problem::new(
                "val_size_too_large",
                format!("val_size {val_size} holds back {held} of {n} samples and leaves none to train on."),
                format!("val_size {val_size} 会从 {n} 个样本中留出 {held} 个，没有剩余样本可训练。"),
            )
            .hint(
                format!("Set it under {n}, or under 1 as a share."),
                format!("请设为小于 {n} 的数，或小于 1 的比例。"),
            )
            .field("val_size")
            .into());
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        Random::new(seed, SPLIT_STREAM).shuffle(&mut order);
        let mut is_held = vec![false; n];
        order.iter().take(held as usize).for_each(|i| is_held[*i as usize] = true);
        let of = |wanted: bool| {
            let places = self.places.iter().zip(&is_held).filter(|(_, held)| **held == wanted).map(|(place, _)| *place);
            Self { parts: self.parts.clone(), places: places.collect(), ends: None }
        };
        Ok((of(false), of(true)))
    }

    /// Packs pieces together up to `most` tokens: longest first, each into the fullest sample that still has room for it
    /// (best fit decreasing). Packed samples stand in the order of their first pieces.
    pub fn packed(self, most: usize) -> Self {
        let mut order: Vec<(usize, u32)> =
            self.places.iter().zip(0..).map(|(place, i)| (self.tokens(place), i)).collect();
        order.sort_by(|(a, i), (b, k)| b.cmp(a).then(i.cmp(k)));
        let mut bins: Vec<Vec<u32>> = Vec::new();
        // Bins by the room that they have left.
        let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (tokens, i) in order {
            let fullest =
                room.range_mut(tokens..).next().and_then(|(left, bins)| Some((*left, bins.pop()?, bins.is_empty())));
            let (left, bin) = match fullest {
                Some((left, bin, last)) => {
                    if last {
                        room.remove(&left);
                    }
                    (left, bin)
                }
                None => {
                    bins.push(Vec::new());
                    (most.max(tokens), bins.len() - 1)
                }
            };
            bins[bin].push(i);
            room.entry(left - tokens).or_default().push(bin);
        }
        bins.iter_mut().for_each(|bin| bin.sort_unstable());
        bins.sort_unstable();
        let mut end = 0;
        let ends = bins.iter().map(|bin| {
            end += bin.len() as u32;
            end
        });
        let ends = Some(ends.collect());
        let places = bins.iter().flatten().map(|i| self.places[*i as usize]).collect();
        Self { parts: self.parts, places, ends }
    }

    pub fn len(&self) -> usize {
        self.ends.as_ref().map_or(self.places.len(), |ends| ends.len())
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Tokens of sample `i`.
    pub fn length(&self, i: usize) -> usize {
        self.pieces(i).iter().map(|place| self.tokens(place)).sum()
    }

    /// Tokens of some samples together.
    pub fn tokens_of(&self, batch: &[u32]) -> u64 {
        batch.iter().map(|i| self.length(*i as usize) as u64).sum()
    }

    /// Tokens of sample `i` that have a loss.
    pub fn targets(&self, i: usize) -> usize {
        self.pieces(i).iter().map(|place| self.part(place).targets(place.piece as usize)).sum()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.places.iter().map(|place| self.part(place).longest(place.piece as usize)).max().unwrap_or(0)
    }

    /// Tokens of a sample without a loss: of a prompt, without the answer behind it.
    pub fn prompt(&self, sample: usize) -> usize {
        self.length(sample) - self.targets(sample)
    }

    /// Reads the samples `of` as one batch.
    pub fn batch(&self, of: &[u32]) -> Result<Batch> {
        let mut bytes = Vec::new();
        let mut read = Vec::new();
        for place in of.iter().flat_map(|i| self.pieces(*i as usize)) {
            self.part(place).read(place.piece as usize, &mut bytes, &mut read)?;
        }
        let batch = Batch::new(read.iter().map(|row| (row.ids.as_slice(), row.trained.as_slice())));
        Ok(Batch { marks: read.iter().map(|row| row.mark).collect(), ..batch })
    }

    fn pieces(&self, i: usize) -> &[Place] {
        let range: Range<usize> = match &self.ends {
            None => i..i + 1,
            Some(ends) => i.checked_sub(1).map_or(0, |before| ends[before] as usize)..ends[i] as usize,
        };
        &self.places[range]
    }

    fn part(&self, place: &Place) -> &Part {
        &self.parts[place.part as usize]
    }

    fn tokens(&self, place: &Place) -> usize {
        self.part(place).length(place.piece as usize)
    }
}

/// The pieces of a part that have something to learn.
fn pieces(part: &Part, number: u32) -> impl Iterator<Item = Place> {
    (0..part.len()).filter(|i| part.targets(*i) > 0).map(move |i| Place { part: number, piece: i as u32 })
}

/// The lists' places in turns, or drawn by `shares`, until the first or every list was used up.
fn interleave(lists: &[Vec<Place>], strategy: MixStrategy, shares: Option<&[f64]>, seed: u64) -> Vec<Place> {
    let mut random = Random::new(seed, MIX_STREAM);
    let (mut next, mut used_up) = (vec![0; lists.len()], vec![false; lists.len()]);
    let mut places = Vec::new();
    let enough = |used_up: &[bool]| match strategy {
        MixStrategy::InterleaveUnder => used_up.contains(&true),
        _ => !used_up.contains(&false),
    };
    while !enough(&used_up) {
        // In turns, a round is always finished, so that each list comes equally often.
        let round = match shares {
            Some(shares) => {
                let chosen = pick(shares, random.uniform());
                chosen..chosen + 1
            }
            None => 0..lists.len(),
        };
        for list in round {
            places.push(lists[list][next[list]]);
            next[list] += 1;
            if next[list] == lists[list].len() {
                (next[list], used_up[list]) = (0, true);
            }
        }
    }
    places
}

/// The list at which the shares, added up, pass `point` (0 to 1) of their sum.
fn pick(shares: &[f64], point: f64) -> usize {
    let mut left = point * shares.iter().sum::<f64>();
    let passed = |share: &f64| {
        left -= share;
        left < 0.0
    };
    shares.iter().position(passed).unwrap_or(shares.len().saturating_sub(1))
}

/// The streams of random numbers that choices of [`Samples::split`] and [`Samples::mixed`] come from.
const SPLIT_STREAM: u64 = 0x5350_4C49_5400;
const MIX_STREAM: u64 = 0x4D49_5845_4400;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Sequence, Spool};

    /// Rows of the given lengths; ids count up over all of them from `first`.
    fn spool(first: u32, lengths: &[u32]) -> Arc<Spool> {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        let mut id = first;
        for length in lengths {
            writer.push(&Sequence::all((id..id + length).collect())).unwrap();
            id += length;
        }
        Arc::new(writer.finish().unwrap())
    }

    fn part(first: u32, lengths: &[u32]) -> Part {
        Part::rows(spool(first, lengths), usize::MAX).unwrap()
    }

    /// The first id of each sample's pieces.
    fn firsts(samples: &Samples) -> Vec<Vec<u32>> {
        let of = |i: usize| {
            let batch = samples.batch(&[i as u32]).unwrap();
            assert_eq!((batch.ids.len(), batch.targets.len()), (samples.length(i), samples.targets(i)));
            let mut start = 0;
            let firsts = batch.lengths.iter().map(|n| {
                start += n;
                batch.ids[start - n]
            });
            firsts.collect()
        };
        (0..samples.len()).map(of).collect()
    }

    fn order(samples: &Samples) -> Vec<u32> {
        firsts(samples).concat()
    }

    #[test]
    fn rows_are_cut_and_what_learns_nothing_stays_out() {
        let samples = Samples::of(vec![Part::rows(spool(0, &[5, 1, 3]), 3).unwrap(), part(100, &[2])]);
        assert_eq!(order(&samples), [0, 6, 100]);
        assert_eq!((samples.longest(), samples.length(0), samples.targets(0)), (3, 3, 2));
        let row = Sequence { ids: vec![1, 2, 3], trained: vec![false, false, true] };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        writer.push(&row).unwrap();
        let part = Part::rows(Arc::new(writer.finish().unwrap()), 2).unwrap();
        assert!(part.is_cut(0) && Samples::of(vec![part]).is_empty());
    }

    #[test]
    fn prompts_are_bounded_without_what_stands_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        for (prompt, answer) in [(3, 9), (4, 1)] {
            let row = Sequence {
                ids: (0..prompt + answer).collect(),
                trained: (0..prompt + answer).map(|i| i >= prompt).collect(),
            };
            writer.push(&row).unwrap();
        }
        let spool = Arc::new(writer.finish().unwrap());
        let samples = Samples::of(vec![Part::prompts(spool, 3)]);
        assert_eq!((samples.len(), samples.prompt(0), samples.targets(0)), (1, 3, 9));
        assert_eq!(samples.batch(&[0]).unwrap().targets, (3..12).collect::<Vec<u32>>());
    }

    #[test]
    fn blocks_go_on_over_rows_and_their_first_token_is_not_trained() {
        let part = Part::blocks(spool(0, &[4, 4, 5]), 5);
        assert_eq!((0..part.len()).map(|i| part.length(i)).collect::<Vec<_>>(), [5, 5, 3]);
        let samples = Samples::of(vec![part]);
        let batch = samples.batch(&[1, 2]).unwrap();
        assert_eq!(batch.ids, [5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(batch.targets, [6, 7, 8, 9, 11, 12]);
        // A last block of one token has nothing to learn.
        assert_eq!(Part::blocks(spool(0, &[6]), 5).len(), 1);
    }

    #[test]
    fn mixtures_stop_when_the_first_or_the_last_is_used_up() {
        use MixStrategy::{Concat, InterleaveOver, InterleaveUnder};
        let parts = || vec![part(0, &[2, 2, 2]), part(10, &[2]), part(20, &[2, 2])];
        let mixed = |strategy, shares: &[f64], seed| order(&Samples::mixed(parts(), strategy, shares, seed));
        assert_eq!(mixed(Concat, &[], 1), [0, 2, 4, 10, 20, 22]);
        assert_eq!(mixed(InterleaveUnder, &[], 1), [0, 10, 20]);
        assert_eq!(mixed(InterleaveOver, &[], 1), [0, 10, 20, 2, 10, 22, 4, 10, 20]);
        let drawn = mixed(InterleaveOver, &[0.5, 0.25, 0.25], 1);
        assert_eq!(drawn, mixed(InterleaveOver, &[2.0, 1.0, 1.0], 1));
        assert!((2..50).any(|seed| drawn != mixed(InterleaveOver, &[2.0, 1.0, 1.0], seed)));
        assert!([0, 2, 4, 10, 20, 22].iter().all(|id| drawn.contains(id)));
        assert_eq!(mixed(InterleaveUnder, &[1.0, 0.0, 0.0], 1), [0, 2, 4]);
        // An empty part holds nobody up.
        let empty = Samples::mixed(vec![part(0, &[]), part(10, &[2, 2])], InterleaveUnder, &[], 1);
        assert_eq!(order(&empty), [10, 12]);
    }

    #[test]
    fn shares_come_as_often_as_they_say() {
        let lengths = [2; 20_000];
        let parts = vec![part(0, &lengths), part(1_000_000, &lengths)];
        let mixed = Samples::mixed(parts, MixStrategy::InterleaveUnder, &[0.8, 0.2], 7);
        let first = order(&mixed).iter().filter(|id| **id < 1_000_000).count();
        let share = first as f64 / mixed.len() as f64;
        assert!((share - 0.8).abs() < 0.01, "{share}");
    }

    #[test]
    fn a_split_is_repeatable_and_loses_nothing() {
        let samples = || Samples::of(vec![part(0, &[2; 100])]);
        let (train, held) = samples().split(0.1, 42).unwrap();
        assert_eq!((train.len(), held.len()), (90, 10));
        assert_eq!(order(&samples().split(0.1, 42).unwrap().1), order(&held));
        assert_ne!(order(&samples().split(0.1, 43).unwrap().1), order(&held));
        let mut all = [order(&train), order(&held)].concat();
        all.sort_unstable();
        assert_eq!(all, order(&samples()));
        assert_eq!(samples().split(7.0, 1).unwrap().1.len(), 7);
        let (all, none) = samples().split(0.0, 1).unwrap();
        assert_eq!((all.len(), none.len()), (100, 0));
        let few = || Samples::of(vec![part(0, &[2; 10])]);
        let problem = few().split(10.0, 1).err().unwrap().into_problem();
        assert_eq!((problem.code.as_str(), problem.field.as_deref()), ("val_size_too_large", Some("val_size")));
        assert_eq!(few().split(0.95, 1).err().unwrap().into_problem().code, "val_size_too_large");
    }

    #[test]
    fn packing_keeps_every_piece_once_and_within_the_limit() {
        let lengths: Vec<u32> = (0..500).map(|i| 2 + i * 37 % 61).collect();
        let samples = Samples::of(vec![part(0, &lengths)]).packed(64);
        let firsts = firsts(&samples);
        assert!((0..samples.len()).all(|i| samples.length(i) <= 64));
        let tokens: u32 = lengths.iter().sum();
        // Hardly any room is left.
        assert!(samples.len() as u32 <= tokens.div_ceil(64) + 2, "{} samples, {tokens} tokens", samples.len());
        assert!(firsts.iter().all(|sample| sample.is_sorted()) && firsts.is_sorted());
        let mut all = firsts.concat();
        all.sort_unstable();
        let unpacked = Samples::of(vec![part(0, &lengths)]);
        assert_eq!(all, order(&unpacked));
        // What is longer than the limit stays alone.
        assert_eq!(Samples::of(vec![part(0, &[9, 3, 4])]).packed(7).len(), 2);
    }

    #[test]
    fn pairs_stay_together_and_keep_the_end_of_their_answers() {
        // LLaMA-Factory's `infer_seqlen`.
        for ((prompt, answer, most), kept) in [
            ((10, 4, 100), (10, 4)),
            ((100, 4, 20), (16, 4)),
            ((5, 100, 20), (5, 15)),
            ((30, 60, 30), (10, 20)),
            ((1, 9, 2), (1, 1)),
        ] {
            assert_eq!(shortened(prompt, answer, most), kept);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        let row = |first: u32, prompt: u32, answer: u32| Sequence {
            ids: (first..first + prompt + answer).collect(),
            trained: (0..prompt + answer).map(|i| i >= prompt).collect(),
        };
        for i in 0..6u32 {
            writer.push_marked(&row(100 * i, 4, 1 + i), i as f32).unwrap();
        }
        let spool = Arc::new(writer.finish().unwrap());
        let samples = Samples::of(vec![Part::pairs(spool.clone(), 100, true)]);
        assert_eq!((samples.len(), samples.length(1), samples.targets(1), samples.longest()), (3, 15, 7, 10));
        let batch = samples.batch(&[2, 0]).unwrap();
        assert_eq!(
            (batch.lengths.as_slice(), batch.marks.as_slice()),
            ([9, 10, 5, 6].as_slice(), [4., 5., 0., 1.].as_slice())
        );
        assert_eq!((batch.ids[0], batch.ids[9], batch.targets[..5].to_vec()), (400, 500, (404..409).collect()));
        // 4 tokens of the prompt and 6 of the longer answer, in the room of 8: 4 of each.
        let cut = Part::pairs(spool, 8, true);
        assert!(cut.is_cut(2) && !cut.is_cut(0));
        let batch = Samples::of(vec![cut]).batch(&[2]).unwrap();
        assert_eq!((batch.lengths.as_slice(), batch.ids[..4].to_vec()), ([8, 8].as_slice(), vec![400, 401, 402, 403]));
        let (train, held) = samples.split(1.0, 3).unwrap();
        assert_eq!((train.batch(&[0, 1]).unwrap().lengths.len(), held.batch(&[0]).unwrap().lengths.len()), (4, 2));
    }

    #[test]
    fn sources_keep_their_end_and_their_targets() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        let row = |source: usize, target: usize| Sequence {
            ids: (0..(source + target) as u32).collect(),
            trained: (0..source + target).map(|i| i >= source).collect(),
        };
        [row(9, 2), row(3, 2), row(4, 0)].iter().for_each(|row| writer.push(row).unwrap());
        let part = Part::sources(Arc::new(writer.finish().unwrap()), 6);
        assert_eq!((part.is_cut(0), part.is_cut(1), part.length(0)), (true, false, 6));
        let samples = Samples::of(vec![part]);
        // What has no target teaches nothing.
        assert_eq!((samples.len(), samples.longest()), (2, 6));
        let batch = samples.batch(&[0, 1]).unwrap();
        assert_eq!(batch.ids, [0, 1, 2, 8, 9, 10, 0, 1, 2, 3, 4]);
        assert_eq!((batch.lengths, batch.targets), (vec![6, 5], vec![9, 10, 3, 4]));
    }

    #[test]
    fn a_second_set_keeps_its_own_tokens() {
        let both = Samples::of(vec![part(0, &[2, 2])]).and(Samples::of(vec![part(50, &[3])]));
        assert_eq!(order(&both), [0, 2, 50]);
    }
}
