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

/// Keys and values of earlier positions, a pair for each layer. One sequence.
pub struct Cache {
    /// Each with room for more positions than are held.
    layers: Vec<Mutex<Option<(Tensor, Tensor)>>>,
    /// Positions held.
    pub length: usize,
}

impl Cache {
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| Mutex::new(None)).collect(), length: 0 }
    }

    /// Appends to a layer's keys and values (tokens, kv_heads, dim) and gives all of them.
    pub(crate) fn extend(&self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let new = k.dim(0)?;
        let mut slot = self.layers[layer].lock().unwrap_or_else(PoisonError::into_inner);
        let (all_k, all_v) = match slot.take() {
            Some((k0, v0)) => (self.join(k0, &k)?, self.join(v0, &v)?),
            // The first piece is all there is, often a long prompt.
            None => (k, v),
        };
        let end = self.length + new;
        let all = (all_k.narrow(0, 0, end)?, all_v.narrow(0, 0, end)?);
        *slot = Some((all_k, all_v));
        Ok(all)
    }

    /// Puts `new` behind the positions held, in place where there is room.
    fn join(&self, held: Tensor, new: &Tensor) -> Result<Tensor> {
        let (length, end) = (self.length, self.length + new.dim(0)?);
        let held = if end <= held.dim(0)? {
            held
        } else {
            let (_, heads, dim) = held.dims3()?;
            let grown = Tensor::zeros((end + end / 2, heads, dim), held.dtype(), held.device())?;
            grown.slice_set(&held.narrow(0, 0, length)?, 0, 0)?;
            grown
        };
        held.slice_set(&new.contiguous()?, 0, length)?;
        Ok(held)
    }
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
