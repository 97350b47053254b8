//! A decoder layer, and the wrapper that keeps only its input and computes the rest again.

use super::{Attention, Block, Bottleneck, Experts, Linear, Mlp, Norm};
use crate::{
    Result, kernels,
    model::{Grads, Keep, Parameter, Pass, Weights},
};
use candle_core::Tensor;

/// `h = x + attention(x)`, `y = h + mlp(h)`, each branch with a norm before it, behind it, or both.
pub struct Layer {
    pub attention_norm: Option<Norm>,
    pub attention: Attention,
    pub attention_post_norm: Option<Norm>,
    pub attention_adapter: Option<Bottleneck>,
    pub mlp_norm: Option<Norm>,
    pub mlp: FeedForward,
    pub mlp_post_norm: Option<Norm>,
    pub mlp_adapter: Option<Bottleneck>,
    /// `y = x + attention(x) + mlp(x)` instead.
    pub parallel: bool,
    /// Factor on what each branch adds.
    pub scale: f32,
}

/// What follows the attention.
pub enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

impl Layer {
    /// Those that an adapter may change: the experts' are not among them, see [`crate::model::LayerLayout`].
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = self.attention.linears();
        if let FeedForward::Dense(mlp) = &self.mlp {
            all.extend(mlp.linears());
        }
        all
    }

    /// The base's parameters.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mlp = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.linears(),
            FeedForward::Experts(experts) => {
                [&experts.router].into_iter().chain(experts.experts.iter().flat_map(Mlp::linears)).collect()
            }
        };
        let linears = self.attention.linears().into_iter().chain(mlp);
        let norms = [&self.attention_norm, &self.attention_post_norm, &self.mlp_norm, &self.mlp_post_norm];
        let norms = norms.into_iter().chain([&self.attention.q_norm, &self.attention.k_norm]).flatten();
        linears.flat_map(Linear::parameters).chain(norms.flat_map(Norm::parameters)).collect()
    }

    /// Whether anything in it is trained.
    pub fn learns(&self) -> bool {
        self.parameters().iter().any(|parameter| parameter.trainable)
            || self.linears().into_iter().any(Linear::is_adapted)
            || self.attention_adapter.is_some()
            || self.mlp_adapter.is_some()
    }

    fn attention_branch(&self) -> Branch<'_> {
        Branch {
            before: self.attention_norm.as_ref(),
            block: &self.attention,
            behind: self.attention_post_norm.as_ref(),
            adapter: self.attention_adapter.as_ref(),
            scale: self.scale,
        }
    }

    fn mlp_branch(&self) -> Branch<'_> {
        let block: &dyn Block = match &self.mlp {
            FeedForward::Dense(mlp) => mlp,
            FeedForward::Experts(experts) => experts,
        };
        Branch {
            before: self.mlp_norm.as_ref(),
            block,
            behind: self.mlp_post_norm.as_ref(),
            adapter: self.mlp_adapter.as_ref(),
            scale: self.scale,
        }
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let h = kernels::add(self.attention_branch().forward(x, pass, keep)?, x)?;
        let y = self.mlp_branch().forward(if self.parallel { x } else { &h }, pass, keep)?;
        kernels::add(y, &h)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let dh = kernels::add(self.mlp_branch().backward(dy.clone(), pass, keep, grads)?, &dy)?;
        let into_attention = if self.parallel { dy } else { dh.clone() };
        kernels::add(self.attention_branch().backward(into_attention, pass, keep, grads)?, &dh)
    }
}

/// What is added to the residual.
struct Branch<'a> {
    before: Option<&'a Norm>,
    block: &'a dyn Block,
    behind: Option<&'a Norm>,
    /// Where the pass runs through what the tuning attached.
    adapter: Option<&'a Bottleneck>,
    scale: f32,
}

impl Branch<'_> {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let mut y = match self.before {
            Some(norm) => self.block.forward(&norm.forward(x, pass, keep)?, pass, keep)?,
            None => self.block.forward(x, pass, keep)?,
        };
        if let Some(norm) = self.behind {
            y = norm.forward(&y, pass, keep)?;
        }
        if let Some(adapter) = self.adapter.filter(|_| pass.weights == Weights::Tuned) {
            y = adapter.forward(&y, pass, keep)?;
        }
        scaled(y, self.scale)
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let mut dy = scaled(dy, self.scale)?;
        if let Some(adapter) = self.adapter.filter(|_| pass.weights == Weights::Tuned) {
            dy = adapter.backward(dy, pass, keep, grads)?;
        }
        if let Some(norm) = self.behind {
            dy = norm.backward(dy, pass, keep, grads)?;
        }
        let dx = self.block.backward(dy, pass, keep, grads)?;
        self.before.map_or(Ok(dx.clone()), |norm| norm.backward(dx, pass, keep, grads))
    }
}

fn scaled(x: Tensor, factor: f32) -> Result<Tensor> {
    Ok(if factor == 1.0 { x } else { (x * f64::from(factor))? })
}

/// Keeps only the input of a block and runs its forward again in backward (`gradient_checkpointing`).
pub struct Recompute<'a, B>(pub &'a B);

impl<B: Block> Block for Recompute<'_, B> {
    fn forward(&self, x: &Tensor, pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        keep.push(x);
        self.0.forward(x, pass, &mut Keep::nothing())
    }

    fn backward(&self, dy: Tensor, pass: &Pass, keep: &mut Keep, grads: &mut Grads) -> Result<Tensor> {
        let x = keep.pop()?;
        let mut again = Keep::default();
        self.0.forward(&x, pass, &mut again)?;
        self.0.backward(dy, pass, &mut again, grads)
    }
}
