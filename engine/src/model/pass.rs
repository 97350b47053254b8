//! What one forward (and backward) pass knows besides its input: where sequences begin, positions, the key/value
//! cache, and what backward will need.

use super::{rope::RopeTable, virtual_tokens::Ahead};
use crate::{
    Error, Result,
    kernels::attention::Span,
    random::{mix, name_key},
};
use candle_core::{DType, Tensor};
use std::sync::{Mutex, PoisonError};

/// One pass over packed sequences.
pub struct Pass<'a> {
    pub spans: Vec<Span>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    pub(crate) rope: Option<RopeTable>,
    /// Of layers with a window, where it is another.
    pub(crate) window_rope: Option<RopeTable>,
    pub cache: Option<&'a Cache>,
    /// Virtual tokens before each sequence.
    pub(crate) ahead: Option<Ahead<'a>>,
    /// The type that products are computed in and that activations have; sums along the residuals are float32.
    pub compute: DType,
    /// `Some` while training: the key of this micro-batch's random numbers.
    pub random: Option<u64>,
    pub weights: Weights,
}

/// Which weights a pass runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Those of the base with what the tuning attached.
    Tuned,
    /// Those of the base alone, as if nothing were attached. Base weights that are themselves trained stay as they are.
    Base,
}

impl Pass<'_> {
    /// Angles for a layer with or without a window; none if positions are learned.
    pub(crate) fn rope(&self, window: bool) -> Option<&RopeTable> {
        self.window_rope.as_ref().filter(|_| window).or(self.rope.as_ref())
    }

    /// Key of the random numbers at one place of the model, in one place of the run.
    pub fn random_at(&self, site: &str) -> Option<u64> {
        self.random.map(|key| name_key(mix(key), site))
    }
}

/// Keys and values of earlier positions of some sequences, a pair of tensors for each layer. A sequence has a stretch of
/// `room` rows of its own in both, so that a token joins in place; one that has ended gives its stretch up without a copy.
pub struct Cache {
    /// Each (stretches x room, kv_heads, dim); of a layer that no pass has reached yet, none.
    layers: Vec<Mutex<Option<(Tensor, Tensor)>>>,
    sequences: Vec<Held>,
    /// Stretches, and the positions that each has room for.
    stretches: usize,
    room: usize,
}

/// One sequence of a cache.
#[derive(Clone, Copy, Debug)]
struct Held {
    stretch: usize,
    /// Positions held.
    length: usize,
    /// Positions that the pass at hand adds.
    new: usize,
}

impl Held {
    fn end(&self) -> usize {
        self.length + self.new
    }
}

impl Cache {
    /// For one sequence.
    pub fn new(layers: usize) -> Self {
        Self::of(layers, 1)
    }

    /// For several sequences that advance together.
    pub fn of(layers: usize, sequences: usize) -> Self {
        Self {
            layers: (0..layers).map(|_| Mutex::new(None)).collect(),
            sequences: (0..sequences).map(|stretch| Held { stretch, length: 0, new: 0 }).collect(),
            stretches: sequences,
            room: 0,
        }
    }

    /// Sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Positions held of a sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequences[sequence].length
    }

    /// Goes on with only some of its sequences, which may come in another order, and more than once: each goes on by
    /// itself then, so that what several sequences have in common is computed once.
    pub fn choose(&mut self, of: &[usize]) -> Result<()> {
        let chosen: Vec<Held> = of.iter().map(|i| self.sequences[*i]).collect();
        let mut taken: Vec<usize> = chosen.iter().map(|held| held.stretch).collect();
        taken.sort_unstable();
        self.sequences = chosen;
        match taken.windows(2).any(|pair| pair[0] == pair[1]) {
            true => self.lay_out(self.room),
            false => Ok(()),
        }
    }

    /// Makes room for `new` more positions of each sequence; what [`spans`](Self::spans) and [`extend`](Self::extend) go by.
    pub(crate) fn expect(&mut self, new: &[usize]) -> Result<()> {
        for (held, new) in self.sequences.iter_mut().zip(new) {
            held.new = *new;
        }
        let longest = self.sequences.iter().map(Held::end).max().unwrap_or(0);
        if longest <= self.room {
            return Ok(());
        }
        // The first pieces are all there is, often long prompts.
        self.lay_out(if self.room == 0 { longest } else { grown(longest) })
    }

    /// Positions for which each stretch has room once sequences of `first` tokens have grown to `last`, a token each time.
    pub fn room(first: usize, last: usize) -> usize {
        let mut room = first;
        while room < last {
            room = grown(room + 1);
        }
        room
    }

    /// Each sequence with its keys in the stretches, in the order of the pass.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let mut start = 0;
        let span = |held: &Held| {
            let first = held.stretch * self.room;
            let queries = start..start + held.new;
            start = queries.end;
            Span { queries, keys: first..first + held.end() }
        };
        self.sequences.iter().map(span).collect()
    }

    /// What was expected is held now.
    pub(crate) fn advance(&mut self) {
        for held in &mut self.sequences {
            held.length = held.end();
            held.new = 0;
        }
    }

    /// Puts the new keys and values (tokens, kv_heads, dim) of a layer in place and gives all stretches.
    pub(crate) fn extend(&self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let mut slot = self.layers[layer].lock().unwrap_or_else(PoisonError::into_inner);
        let is_whole = self.sequences.iter().all(|held| held.new == self.room);
        let pair = match slot.take() {
            // Of equal length, with nothing before them: they are the stretches.
            None if is_whole && self.stretches == self.len() => (k, v),
            None => (self.join(self.stretches_of(&k)?, &k)?, self.join(self.stretches_of(&v)?, &v)?),
            Some((all_k, all_v)) => (self.join(all_k, &k)?, self.join(all_v, &v)?),
        };
        *slot = Some(pair.clone());
        Ok(pair)
    }

    /// Empty stretches of the kind of k or v.
    fn stretches_of(&self, t: &Tensor) -> Result<Tensor> {
        let (_, heads, dim) = t.dims3()?;
        Ok(Tensor::zeros((self.stretches * self.room, heads, dim), t.dtype(), t.device())?)
    }

    /// Puts the rows of `new` behind the positions held.
    fn join(&self, held: Tensor, new: &Tensor) -> Result<Tensor> {
        let (mut start, new) = (0, new.contiguous()?);
        for sequence in &self.sequences {
            let rows = new.narrow(0, start, sequence.new)?;
            held.slice_set(&rows, 0, sequence.stretch * self.room + sequence.length)?;
            start += sequence.new;
        }
        Ok(held)
    }

    /// Gives each sequence a stretch of its own with room for so many positions, and lets go of all others.
    fn lay_out(&mut self, room: usize) -> Result<()> {
        let (sequences, old) = (&self.sequences, self.room);
        let moved = |t: &Tensor| -> Result<Tensor> {
            let (_, heads, dim) = t.dims3()?;
            let all = Tensor::zeros((sequences.len() * room, heads, dim), t.dtype(), t.device())?;
            for (i, held) in sequences.iter().enumerate().filter(|(_, held)| held.length > 0) {
                all.slice_set(&t.narrow(0, held.stretch * old, held.length)?, 0, i * room)?;
            }
            Ok(all)
        };
        for layer in &self.layers {
            let mut slot = layer.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((k, v)) = slot.take() {
                *slot = Some((moved(&k)?, moved(&v)?));
            }
        }
        self.sequences.iter_mut().enumerate().for_each(|(i, held)| held.stretch = i);
        (self.stretches, self.room) = (self.sequences.len(), room);
        Ok(())
    }
}

/// The room that is made where sequences come to be so long: more than that, so that it isn't made anew for each token.
fn grown(longest: usize) -> usize {
    longest + longest / 2
}

/// What forward keeps for backward: a stack, since backward undoes the blocks in the opposite order.
#[derive(Default)]
pub struct Keep {
    stack: Vec<Tensor>,
    off: bool,
}

impl Keep {
    /// Keeps nothing: for evaluation, generation and recomputed layers.
    pub fn nothing() -> Self {
        Self { stack: Vec::new(), off: true }
    }

    /// Whether it keeps nothing.
    pub fn is_off(&self) -> bool {
        self.off
    }

    pub fn push(&mut self, t: &Tensor) {
        if !self.off {
            self.stack.push(t.clone());
        }
    }

    pub fn pop(&mut self) -> Result<Tensor> {
        self.stack.pop().ok_or_else(|| Error::Internal("backward wants more than forward kept".into()))
    }

    pub fn is_empty(&self) -> bool {
        self.stack.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_cache_is_known_before() {
        for (first, last) in [(1, 1), (1, 40), (7, 8), (30, 31), (200, 1224)] {
            let mut cache = Cache::new(0);
            cache.expect(&[first]).unwrap();
            cache.advance();
            while cache.length(0) < last {
                cache.expect(&[1]).unwrap();
                cache.advance();
            }
            assert_eq!(cache.room, Cache::room(first, last), "{first} {last}");
        }
    }
}
