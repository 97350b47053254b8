//! The rows of one encoded dataset as pieces: cut, joined to blocks, paired, or shortened on both sides.

use crate::{Result, data::Spool};
use std::sync::Arc;

/// The rows of one encoded dataset, cut to what a sample may hold.
#[derive(Clone)]
pub struct Part {
    spool: Arc<Spool>,
    cut: Cut,
    /// Tokens with a loss of each piece.
    targets: Arc<[u32]>,
}

/// Rows of a piece where a sample is two sequences.
const PAIR: usize = 2;

/// How rows become pieces.
#[derive(Clone, Copy)]
enum Cut {
    /// Each row is one, its first tokens at most.
    Rows(usize),
    /// All rows one after another, cut into blocks. A block's first token has nothing before it and isn't trained; all
    /// others are. Rows see each other inside a block: only for plain text, where each ends with a last token of its own.
    Blocks(usize),
    /// Two rows together are one, each a prompt and an answer of which so many tokens are kept. Rows that share a prompt
    /// keep the same part of it.
    Pairs { most: usize, shared: bool },
    /// Each row is one, a source and a target of which so many tokens are kept, with the source's last: it ends it.
    Sources(usize),
}

impl Part {
    /// Rows, each cut after `cutoff` tokens.
    pub fn rows(spool: Arc<Spool>, cutoff: usize) -> Result<Self> {
        let mut targets = spool.targets().clone();
        let long: Vec<usize> = (0..spool.len()).filter(|row| spool.length(*row) > cutoff).collect();
        if !long.is_empty() {
            let mut cut = targets.to_vec();
            for row in long {
                cut[row] = spool.targets_within(row, cutoff)? as u32;
            }
            targets = cut.into();
        }
        Ok(Self { spool, cut: Cut::Rows(cutoff), targets })
    }

    /// Prompts, the tokens without a loss, with what stands behind them, whole. Those of more than `most` tokens are left out:
    /// cut, they would ask something else.
    pub fn prompts(spool: Arc<Spool>, most: usize) -> Self {
        let answers = spool.targets().iter().enumerate();
        let fits = answers.map(|(row, n)| if spool.length(row) - *n as usize <= most { *n } else { 0 });
        let targets = fits.collect();
        Self { spool, cut: Cut::Rows(usize::MAX), targets }
    }

    /// Blocks of `length` tokens; the last may be shorter.
    pub fn blocks(spool: Arc<Spool>, length: usize) -> Self {
        let length = length.max(2);
        let full = (spool.tokens() / length as u64) as usize;
        let rest = (spool.tokens() % length as u64) as u32;
        // A single token has nothing to be predicted from.
        let targets = std::iter::repeat_n(length as u32 - 1, full).chain((rest > 1).then(|| rest - 1)).collect();
        Self { spool, cut: Cut::Blocks(length), targets }
    }

    /// Pairs of rows. In each, the tokens without a loss are the prompt, those behind them the answer; with `shared` both
    /// answer the same prompt.
    pub fn pairs(spool: Arc<Spool>, most: usize, shared: bool) -> Self {
        let pieces = spool.len() / PAIR;
        let mut part = Self { spool, cut: Cut::Pairs { most, shared }, targets: Arc::default() };
        let targets = (0..pieces).map(|piece| {
            let kept = [0, 1].map(|i| part.kept(piece * PAIR + i).1 as u32);
            // Both must have something to learn.
            if kept.contains(&0) { 0 } else { kept.iter().sum() }
        });
        part.targets = targets.collect();
        part
    }

    /// Rows of a source and its target, for encoder-decoders: the tokens without a loss are the source.
    pub fn sources(spool: Arc<Spool>, most: usize) -> Self {
        let mut part = Self { spool, cut: Cut::Sources(most), targets: Arc::default() };
        part.targets = (0..part.spool.len()).map(|row| part.kept(row).1 as u32).collect();
        part
    }

    /// Pieces.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Tokens of a piece.
    pub fn length(&self, piece: usize) -> usize {
        match self.cut {
            Cut::Rows(most) => self.spool.length(piece).min(most),
            Cut::Blocks(_) => self.targets[piece] as usize + 1,
            Cut::Pairs { .. } => self.sequences(piece).sum(),
            Cut::Sources(_) => {
                let (source, target) = self.kept(piece);
                source + target
            }
        }
    }

    /// Tokens of the longest sequence of a piece.
    pub fn longest(&self, piece: usize) -> usize {
        match self.cut {
            Cut::Pairs { .. } => self.sequences(piece).max().unwrap_or(0),
            _ => self.length(piece),
        }
    }

    /// Tokens of each sequence of a pair.
    fn sequences(&self, piece: usize) -> impl Iterator<Item = usize> + '_ {
        (piece * PAIR..(piece + 1) * PAIR).map(|row| {
            let (prompt, answer) = self.kept(row);
            prompt + answer
        })
    }

    /// Tokens of prompt and answer that are kept of a row.
    fn kept(&self, row: usize) -> (usize, usize) {
        let answer = |row: usize| self.spool.targets()[row] as usize;
        let prompt = self.spool.length(row) - answer(row);
        match self.cut {
            Cut::Pairs { most, shared } => {
                let longest = if shared { answer(row).max(answer(row ^ 1)) } else { answer(row) };
                let (prompt, kept) = shortened(prompt, longest, most);
                (prompt, kept.min(answer(row)))
            }
            Cut::Sources(most) => match shortened(prompt, answer(row), most) {
                (0, _) => (0, 0),
                kept => kept,
            },
            _ => (prompt, answer(row)),
        }
    }

    /// Tokens of a piece that have a loss.
    pub fn targets(&self, piece: usize) -> usize {
        self.targets[piece] as usize
    }

    /// Whether tokens of a piece were cut off.
    pub fn is_cut(&self, piece: usize) -> bool {
        match self.cut {
            Cut::Rows(_) | Cut::Sources(_) => self.spool.length(piece) > self.length(piece),
            Cut::Blocks(_) => false,
            Cut::Pairs { .. } => {
                let rows = piece * PAIR..(piece + 1) * PAIR;
                rows.map(|row| self.spool.length(row)).sum::<usize>() > self.length(piece)
            }
        }
    }

    /// Reads the sequences of a piece.
    pub fn read(&self, piece: usize, bytes: &mut Vec<u8>, into: &mut Vec<Read>) -> Result<()> {
        match self.cut {
            Cut::Rows(_) => {
                let (ids, trained) = self.spool.read(self.spool.start(piece), self.length(piece), bytes)?;
                into.push(Read { ids, trained, mark: self.spool.mark(piece) });
            }
            Cut::Blocks(length) => {
                let (ids, _) = self.spool.read((piece * length) as u64, self.length(piece), bytes)?;
                let trained = (0..ids.len()).map(|i| i > 0).collect();
                into.push(Read { ids, trained, mark: 0.0 });
            }
            Cut::Sources(_) => {
                let (source, target) = self.kept(piece);
                let (mut ids, mut trained) =
                    self.spool.read(self.spool.start(piece), self.spool.length(piece), bytes)?;
                let whole = ids.len() - self.spool.targets()[piece] as usize;
                // The last token of the source counts to what is kept behind the gap.
                let (source, whole, rest) = (source.saturating_sub(1), whole.saturating_sub(1), target + 1);
                shorten(&mut ids, source, whole, rest);
                shorten(&mut trained, source, whole, rest);
                into.push(Read { ids, trained, mark: self.spool.mark(piece) });
            }
            Cut::Pairs { .. } => {
                for row in piece * PAIR..(piece + 1) * PAIR {
                    let (prompt, answer) = self.kept(row);
                    let (mut ids, mut trained) =
                        self.spool.read(self.spool.start(row), self.spool.length(row), bytes)?;
                    let whole = ids.len() - self.spool.targets()[row] as usize;
                    shorten(&mut ids, prompt, whole, answer);
                    shorten(&mut trained, prompt, whole, answer);
                    into.push(Read { ids, trained, mark: self.spool.mark(row) });
                }
            }
        }
        Ok(())
    }
}

/// One sequence as a batch takes it.
pub struct Read {
    pub ids: Vec<u32>,
    pub trained: Vec<bool>,
    pub mark: f32,
}

/// Tokens of a prompt and its answer that are kept when they may have `most` together: the shorter one whole if it has less
/// than half of the room, otherwise both in proportion. As LLaMA-Factory shares `cutoff_len` out (`infer_seqlen`).
pub fn shortened(prompt: usize, answer: usize, most: usize) -> (usize, usize) {
    let room = if answer.saturating_mul(2) < most {
        most
    } else if prompt.saturating_mul(2) < most {
        most - prompt
    } else {
        (most as u128 * answer as u128 / (prompt + answer).max(1) as u128) as usize
    };
    let answer = room.min(answer);
    (prompt.min(most - answer), answer)
}

/// Keeps the first `prompt` of the `whole` tokens of a prompt, and the first `answer` of those behind them.
pub fn shorten<T>(tokens: &mut Vec<T>, prompt: usize, whole: usize, answer: usize) {
    tokens.truncate(whole + answer);
    tokens.drain(prompt..whole);
}
