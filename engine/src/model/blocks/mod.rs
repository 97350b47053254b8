//! The pieces that a decoder is composed of. Each knows its own backward and is checked against candle's autograd.
//! Shapes: x (tokens, dim), with the sequences packed one after another and their places in [`Pass`].

mod attention;
mod bottleneck;
mod dora;
mod experts;
mod layer;
mod linear;
mod mlp;
mod norm;
mod patch;
mod rescale;
mod rotate;

pub use attention::{Attention, Qkv};
pub use bottleneck::Bottleneck;
pub use dora::{Dora, MAGNITUDE};
pub use experts::Experts;
pub use layer::{FeedForward, Layer, Recompute};
pub use linear::{Linear, LowRank};
pub(crate) use linear::{backward_all, forward_all};
pub use mlp::{Mlp, MlpInput};
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use patch::Patch;
pub use rescale::Rescale;
pub use rotate::Rotate;

use super::{Grads, Keep, Pass};
use crate::Result;
use candle_core::Tensor;

/// One piece of a model that knows its own backward.
pub trait Block: Send + Sync {
    /// Output for x (tokens, dim); what backward needs goes to `keep`.
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor>;

    /// Gradient of x given that of the output. Takes from `keep` what forward put there, in the opposite order, and
    /// adds the gradients of trainable parameters to `grads`.
    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor>;
}

#[cfg(test)]
mod tests;
