//! A layer of the encoder or of the decoder: self-attention, in the decoder attention over the encoder's output, MLP; a
//! norm before each.

use super::Attention;
use crate::{
    Error, Result,
    kernels::{self, attention::Span},
    model::{
        Grads, Keep, Parameter, Pass,
        blocks::{Block, Linear, Mlp, Norm},
    },
};
use candle_core::Tensor;

pub struct Layer {
    pub attention_norm: Norm,
    pub attention: Attention,
    pub cross: Option<(Norm, Attention)>,
    pub mlp_norm: Norm,
    pub mlp: Mlp,
}

/// What a stack of layers reads besides x.
pub struct Side<'a> {
    /// Each sequence over itself.
    pub own: &'a [Span],
    /// The encoder's output, and each target over its source.
    pub memory: Option<(&'a Tensor, &'a [Span])>,
}

impl Layer {
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let cross = self.cross.iter().flat_map(|(_, attention)| attention.linears());
        self.attention.linears().into_iter().chain(cross).chain(self.mlp.linears())
    }

    /// Its weights, without the biases that the layers of a stack share.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let norms = [&self.attention_norm, &self.mlp_norm].into_iter().chain(self.cross.iter().map(|(norm, _)| norm));
        self.linears().flat_map(Linear::parameters).chain(norms.flat_map(Norm::parameters)).collect()
    }

    pub fn forward(&self, x: &Tensor, side: &Side, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let y = self.attention_norm.forward(x, pass, keep)?;
        let mut h = kernels::add(self.attention.forward(&y, None, side.own, pass, keep)?, x)?;
        if let Some((norm, attention)) = &self.cross {
            let (memory, spans) = side.memory.ok_or_else(|| Error::Internal("a decoder without memory".into()))?;
            let y = norm.forward(&h, pass, keep)?;
            h = kernels::add(attention.forward(&y, Some(memory), spans, pass, keep)?, &h)?;
        }
        let y = self.mlp_norm.forward(&h, pass, keep)?;
        kernels::add(self.mlp.forward(&y, pass, keep)?, &h)
    }

    /// Gradient of x; that of the memory is added to `dmemory`.
    pub fn backward(
        &self,
        dy: Tensor,
        side: &Side,
        dmemory: &mut Option<Tensor>,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        let d = self.mlp.backward(dy.clone(), pass, keep, grads)?;
        let mut dh = kernels::add(self.mlp_norm.backward(d, pass, keep, grads)?, &dy)?;
        if let (Some((norm, attention)), Some((_, spans))) = (&self.cross, side.memory) {
            let (d, own) = attention.backward(dh.clone(), true, spans, pass, keep, grads)?;
            *dmemory = match (dmemory.take(), own) {
                (Some(sum), Some(own)) => Some(kernels::add(sum, &own)?),
                (sum, own) => sum.or(own),
            };
            dh = kernels::add(norm.backward(d, pass, keep, grads)?, &dh)?;
        }
        let (d, _) = self.attention.backward(dh.clone(), false, side.own, pass, keep, grads)?;
        kernels::add(self.attention_norm.backward(d, pass, keep, grads)?, &dh)
    }
}
