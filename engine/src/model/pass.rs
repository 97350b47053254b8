//! What one forward (and backward) pass knows besides its input: where sequences begin, positions, the key/value
//! cache, and what backward will need.

use super::{cache::Cache, rope::RopeTable, virtual_tokens::Ahead};
use crate::{
    Error, Result,
    kernels::attention::{Paged, Span},
    random::{mix, name_key},
};
use candle_core::{DType, Tensor};

/// One pass over packed sequences.
pub struct Pass<'a> {
    pub spans: Vec<Span>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    pub(crate) rope: Option<RopeTable>,
    /// Of layers with a window, where it is another.
    pub(crate) window_rope: Option<RopeTable>,
    pub cache: Option<Cached<'a>>,
    /// Virtual tokens before each sequence.
    pub(crate) ahead: Option<Ahead<'a>>,
    /// The type that products are computed in and that activations have; sums along the residuals are float32.
    pub compute: DType,
    /// `Some` while training: the key of this micro-batch's random numbers.
    pub random: Option<u64>,
    pub weights: Weights,
}

/// A cache, and which of its places the sequences of the pass see.
pub struct Cached<'a> {
    pub cache: &'a Cache,
    pub tables: Vec<Paged>,
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
