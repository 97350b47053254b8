//! Virtual tokens: learned vectors that stand before each sequence. As embeddings they take positions in the input
//! (prompt tuning, P-tuning); as keys and values every layer attends to them (prefix tuning). Positions of the text begin
//! behind them either way, as in PEFT: keys of a prefix are not rotated and have no position of their own.

use super::{Grads, Parameter};
use crate::{
    Error, Result,
    kernels::{device::gradients_of, values::cast},
};
use candle_core::{DType, Device, Tensor};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The virtual tokens of a tuning.
pub struct VirtualTokens {
    pub count: usize,
    pub place: Place,
    /// What is trained.
    pub parameters: Vec<Arc<Parameter>>,
    pub encode: Encode,
}

/// Where virtual tokens stand, and with that their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Rows of the input, (count, hidden).
    Input,
    /// Keys and values, (count, layers · 2 · heads · dim): for each layer its keys, then its values.
    Keys { layers: usize, heads: usize, dim: usize },
}

/// Makes the virtual tokens (count, width) from the values of the parameters, in float32 and by operations that candle
/// can differentiate. The key of random numbers is there while training.
pub type Encode = Box<dyn Fn(&[Tensor], Option<u64>) -> Result<Tensor> + Send + Sync>;

impl VirtualTokens {
    /// Their values (count, width).
    pub fn values(&self, random: Option<u64>) -> Result<Tensor> {
        (self.encode)(&self.parameters.iter().map(|p| p.get()).collect::<Vec<_>>(), random)
    }

    /// Adds the gradients of the parameters, given that of the values, which `random` made.
    fn backward(&self, d: &Tensor, random: Option<u64>, grads: &mut Grads) -> Result<()> {
        let values: Vec<Tensor> = self.parameters.iter().map(|p| p.get()).collect();
        let found = gradients_of(&values, d, |values| (self.encode)(values, random))?;
        self.parameters.iter().zip(found).try_for_each(|(parameter, d)| grads.add(parameter, d))
    }
}

/// The virtual tokens in one pass over packed sequences.
pub struct Ahead<'a> {
    tokens: &'a VirtualTokens,
    random: Option<u64>,
    values: Tensor,
    sequences: usize,
    /// Rows of virtual tokens, followed by all others → virtual tokens before each sequence.
    order: Tensor,
    /// Where in the latter the virtual rows are, and where the others.
    virtual_rows: Tensor,
    own_rows: Tensor,
    /// Gradients of keys and values by layer.
    gradients: Mutex<BTreeMap<usize, [Tensor; 2]>>,
}

impl<'a> Ahead<'a> {
    pub fn new(tokens: &'a VirtualTokens, lengths: &[usize], random: Option<u64>, device: &Device) -> Result<Self> {
        let count = tokens.count;
        let (mut order, mut virtual_rows, mut own_rows, mut own) = (Vec::new(), Vec::new(), Vec::new(), count);
        for length in lengths {
            let (start, end) = (order.len() + count, order.len() + count + length);
            virtual_rows.extend(order.len() as u32..start as u32);
            own_rows.extend(start as u32..end as u32);
            order.extend(0..count as u32);
            order.extend(own as u32..(own + length) as u32);
            own += length;
        }
        let index = |rows: Vec<u32>| Tensor::new(rows, device);
        Ok(Self {
            tokens,
            random,
            values: tokens.values(random)?,
            sequences: lengths.len(),
            order: index(order)?,
            virtual_rows: index(virtual_rows)?,
            own_rows: index(own_rows)?,
            gradients: Mutex::default(),
        })
    }

    /// Rows before each sequence of the input.
    pub fn inputs(&self) -> usize {
        if self.tokens.place == Place::Input { self.tokens.count } else { 0 }
    }

    /// Rows before each sequence's keys.
    pub fn keys(&self) -> usize {
        self.tokens.count - self.inputs()
    }

    /// The embeddings x (tokens, hidden) with the virtual tokens among them.
    pub fn join_input(&self, x: Tensor) -> Result<Tensor> {
        if self.inputs() > 0 { self.join(&self.values, &x) } else { Ok(x) }
    }

    /// The rows of a last hidden state that belong to the text.
    pub fn text(&self, x: Tensor) -> Result<Tensor> {
        Ok(if self.inputs() > 0 { x.index_select(&self.own_rows, 0)? } else { x })
    }

    /// Where row `row` of the text stands among all rows of the input.
    pub fn moved(&self, rows: &[u32], lengths: &[usize]) -> Vec<u32> {
        let (mut end, mut sequence) = (0, 0);
        let place = |row: &u32| {
            while sequence < lengths.len() && *row as usize >= end {
                end += lengths[sequence];
                sequence += 1;
            }
            row + (sequence * self.inputs()) as u32
        };
        rows.iter().map(place).collect()
    }

    /// Keys and values (tokens, heads, dim) of a layer with the virtual ones among them.
    pub fn join_keys(&self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let Some((prefix_k, prefix_v)) = self.layer(layer, k.dtype())? else { return Ok((k, v)) };
        Ok((self.join(&prefix_k, &k)?, self.join(&prefix_v, &v)?))
    }

    /// The gradients of the layer's own keys and values, given those of all; the rest is remembered.
    pub fn split_keys(&self, layer: usize, dk: Tensor, dv: Tensor) -> Result<(Tensor, Tensor)> {
        if self.keys() == 0 {
            return Ok((dk, dv));
        }
        let ((virtual_k, dk), (virtual_v, dv)) = (self.split(&dk)?, self.split(&dv)?);
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        gradients.insert(layer, [virtual_k, virtual_v]);
        Ok((dk, dv))
    }

    /// Virtual keys and values (count, heads, dim) of a layer, if there are any.
    pub fn layer(&self, layer: usize, dtype: DType) -> Result<Option<(Tensor, Tensor)>> {
        let Place::Keys { heads, dim, .. } = self.tokens.place else { return Ok(None) };
        let (width, count) = (heads * dim, self.tokens.count);
        let part = |n: usize| -> Result<Tensor> {
            let part = self.values.narrow(1, n * width, width)?.contiguous()?.reshape((count, heads, dim))?;
            cast(&part, dtype)
        };
        Ok(Some((part(2 * layer)?, part(2 * layer + 1)?)))
    }

    /// Adds the gradients of what is trained, and gives that of the embeddings, given that of the input times `scale`.
    pub fn backward(&self, dx: Tensor, scale: f32, grads: &mut Grads) -> Result<Tensor> {
        let (d, dx) = match self.tokens.place {
            Place::Input => {
                let (d, dx) = self.split(&dx)?;
                ((d * f64::from(scale))?, dx)
            }
            Place::Keys { layers, .. } => (self.keys_gradient(layers)?, dx),
        };
        self.tokens.backward(&d, self.random, grads)?;
        Ok(dx)
    }

    fn keys_gradient(&self, layers: usize) -> Result<Tensor> {
        let mut found = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = (0..layers).map(|layer| {
            found.remove(&layer).ok_or_else(|| Error::Internal(format!("layer {layer} gave its prefix no gradient")))
        });
        let flat = parts.collect::<Result<Vec<_>>>()?.into_iter().flatten().map(|d| d.flatten_from(1));
        Ok(Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
    }

    fn join(&self, first: &Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&[first, x], 0)?.index_select(&self.order, 0)?)
    }

    /// Gradient of the virtual rows, summed over the sequences, and of the others.
    fn split(&self, d: &Tensor) -> Result<(Tensor, Tensor)> {
        let ahead = cast(&d.index_select(&self.virtual_rows, 0)?, DType::F32)?;
        let mut shape = vec![self.sequences, self.tokens.count];
        shape.extend(&d.dims()[1..]);
        Ok((ahead.reshape(shape)?.sum(0)?, d.index_select(&self.own_rows, 0)?))
    }
}
