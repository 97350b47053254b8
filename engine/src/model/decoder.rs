//! The decoder: embedding, layers, norm, head. Sequences are packed one after another without padding.

use super::{
    blocks::{Block, Layer, Linear, Norm, Recompute},
    config::DecoderConfig,
    parameter::{Grads, Parameter},
    pass::{Cache, Keep, Pass, Weights},
    rope::{RopeConfig, RopeTable},
};
use crate::{
    Result,
    kernels::{
        self,
        attention::Span,
        head::{CrossEntropy, Gradients, Scale, cross_entropy, softcap},
        matmul, on_worker,
        profile::time,
        values::cast,
    },
};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

pub struct Model {
    pub config: DecoderConfig,
    pub device: Device,
    /// (vocab, hidden)
    pub embedding: Arc<Parameter>,
    /// (context, hidden), where positions are learned.
    pub positions: Option<Arc<Parameter>>,
    pub layers: Vec<Layer>,
    pub norm: Norm,
    /// (vocab, hidden); the embedding itself where they are tied.
    pub head: Arc<Parameter>,
    /// The type that products are computed in.
    pub compute: DType,
    /// Keep only the layers' inputs in training and compute the rest again.
    pub recompute: bool,
    /// NEFTune's alpha: noise on the embeddings while training.
    pub noise: Option<f32>,
}

/// Some sequences, packed, and what is to be predicted in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub ids: Vec<u32>,
    pub lengths: Vec<usize>,
    /// Rows whose next token is trained, and that token.
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Batch {
    /// From (ids, trained) of each sequence; a token is predicted at the row before it, so the first never is.
    pub fn new<'a>(sequences: impl IntoIterator<Item = (&'a [u32], &'a [bool])>) -> Self {
        let mut batch = Self::default();
        for (ids, trained) in sequences {
            let start = batch.ids.len();
            for i in (1..ids.len()).filter(|i| trained[*i]) {
                batch.rows.push((start + i - 1) as u32);
                batch.targets.push(ids[i]);
            }
            batch.ids.extend(ids);
            batch.lengths.push(ids.len());
        }
        batch
    }

    /// Each of its sequences as a batch of its own.
    pub fn apart(&self) -> impl Iterator<Item = Self> + '_ {
        let (mut end, mut to) = (0, 0);
        self.lengths.iter().map(move |length| {
            let (start, from) = (end, to);
            end += length;
            // Rows are in order, so those of one sequence stand together.
            to = self.rows.partition_point(|row| (*row as usize) < end);
            let rows = self.rows[from..to].iter().map(|row| row - start as u32).collect();
            let (ids, targets) = (self.ids[start..end].to_vec(), self.targets[from..to].to_vec());
            Self { ids, lengths: vec![*length], rows, targets }
        })
    }

    fn sequences(&self) -> Vec<(usize, usize)> {
        self.lengths.iter().map(|n| (0, *n)).collect()
    }
}

impl Model {
    /// Logits (tokens, vocab) of packed sequences.
    pub fn logits(&self, ids: &[u32], lengths: &[usize]) -> Result<Tensor> {
        let batch = Batch { ids: ids.to_vec(), lengths: lengths.to_vec(), ..Batch::default() };
        let pass = self.pass(&batch.sequences(), None, None)?;
        let x = self.hidden(&batch.ids, &pass, &mut Keep::nothing())?;
        let x = self.norm.forward(&x, &pass, &mut Keep::nothing())?;
        self.head_logits(&x)
    }

    /// Sum of `-log p` over the targets of a batch, without gradients.
    pub fn loss(&self, batch: &Batch) -> Result<f64> {
        on_worker(|| {
            let h = self.states_here(batch, Weights::Tuned)?;
            Ok(self.head_loss(&h, &batch.targets, Scale::All(1.0), Gradients::None)?.sum())
        })
    }

    /// Log probability of each target of a batch, without gradients.
    pub fn log_probs(&self, batch: &Batch, weights: Weights) -> Result<Vec<f32>> {
        on_worker(|| {
            let h = self.states_here(batch, weights)?;
            self.log_probs_of(&h, &batch.targets)
        })
    }

    /// Normalised last hidden state (targets, hidden) at the rows that predict the targets, without gradients.
    pub fn states(&self, batch: &Batch, weights: Weights) -> Result<Tensor> {
        on_worker(|| self.states_here(batch, weights))
    }

    fn states_here(&self, batch: &Batch, weights: Weights) -> Result<Tensor> {
        let (mut pass, mut keep) = (self.pass(&batch.sequences(), None, None)?, Keep::nothing());
        pass.weights = weights;
        let x = self.hidden(&batch.ids, &pass, &mut keep)?;
        self.norm.forward(&self.predicting(&x, batch)?, &pass, &mut keep)
    }

    /// Sum of `-log p` over the targets of each sequence of a batch, without gradients.
    pub fn losses(&self, batch: &Batch) -> Result<Vec<f64>> {
        let all = self.log_probs(batch, Weights::Tuned)?;
        let mut left = all.as_slice();
        let sums = batch.apart().map(|sequence| {
            let (own, rest) = left.split_at(sequence.targets.len());
            left = rest;
            own.iter().map(|log_prob| -f64::from(*log_prob)).sum()
        });
        Ok(sums.collect())
    }

    /// Sum of `-log p` over the targets; adds the gradients of `scale` times that sum to `grads`. `random` is the key
    /// of this micro-batch's random numbers.
    pub fn learn(&self, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        if batch.targets.is_empty() {
            return Ok(0.0);
        }
        self.learn_through(batch, random, grads, |h, grads| {
            let found = self.head_loss_backward(h, &batch.targets, Scale::All(scale), grads)?;
            Ok((found.sum(), found.hidden))
        })
    }

    /// As [`learn`](Self::learn), for any loss of the targets' log probabilities: `objective` hears each and gives the
    /// gradient of its loss for each, with whatever else it found.
    pub fn learn_by<T: Send>(
        &self,
        batch: &Batch,
        random: u64,
        grads: &mut Grads,
        objective: impl FnOnce(&[f32]) -> Result<(T, Vec<f32>)> + Send,
    ) -> Result<T> {
        self.learn_through(batch, random, grads, |h, grads| {
            let (found, gradient) = objective(&self.log_probs_of(h, &batch.targets)?)?;
            // The head's loss is -log p.
            let scales: Vec<f32> = gradient.iter().map(|d| -d).collect();
            let hidden = self.head_loss_backward(h, &batch.targets, Scale::Rows(&scales), grads)?.hidden;
            Ok((found, hidden))
        })
    }

    /// As [`learn`](Self::learn), for any loss of the normalised last hidden state h (targets, hidden) at the rows that
    /// predict the targets: `objective` gives what it found and the gradient of h, and adds those of parameters behind h.
    pub fn learn_through<T: Send>(
        &self,
        batch: &Batch,
        random: u64,
        grads: &mut Grads,
        objective: impl FnOnce(&Tensor, &mut Grads) -> Result<(T, Option<Tensor>)> + Send,
    ) -> Result<T> {
        on_worker(|| {
            let pass = self.pass(&batch.sequences(), None, Some(random))?;
            let mut keep = Keep::default();
            let x = self.hidden(&batch.ids, &pass, &mut keep)?;
            let h = self.norm.forward(&self.predicting(&x, batch)?, &pass, &mut keep)?;
            let (found, dh) = objective(&h, grads)?;
            if let Some(dh) = dh {
                let dh = self.norm.backward(dh, &pass, &mut keep, grads)?;
                let dx = kernels::scatter_rows(&dh, &batch.rows, x.dim(0)?, 1.0)?;
                self.hidden_backward(&batch.ids, dx, &pass, &mut keep, grads)?;
            }
            Ok(found)
        })
    }

    /// Log probability of a target for each row of normalised h (rows, hidden).
    pub fn log_probs_of(&self, h: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        let mut losses = self.head_loss(h, targets, Scale::All(1.0), Gradients::None)?.losses;
        losses.iter_mut().for_each(|loss| *loss = -*loss);
        Ok(losses)
    }

    /// The head's loss with the gradient of normalised h (rows, hidden), and that of the head where it is trained.
    pub fn head_loss_backward(
        &self,
        h: &Tensor,
        targets: &[u32],
        scale: Scale,
        grads: &mut Grads,
    ) -> Result<CrossEntropy> {
        let want = if self.head.trainable { Gradients::HiddenAndWeight } else { Gradients::Hidden };
        let mut found = self.head_loss(h, targets, scale, want)?;
        if let Some(dw) = found.weight.take() {
            grads.add(&self.head, dw)?;
        }
        Ok(found)
    }

    /// Logits (vocab) after one more piece of a single sequence, whose keys and values join the cache.
    pub fn step(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        on_worker(|| self.step_here(ids, cache))
    }

    fn step_here(&self, ids: &[u32], cache: &mut Cache) -> Result<Vec<f32>> {
        let (start, end) = (cache.length, cache.length + ids.len());
        let mut pass = self.pass(&[(start, end)], Some(cache), None)?;
        pass.spans = vec![Span { queries: 0..ids.len(), keys: 0..end }];
        let mut keep = Keep::nothing();
        let x = self.hidden(ids, &pass, &mut keep)?.narrow(0, ids.len() - 1, 1)?.contiguous()?;
        let x = self.norm.forward(&x, &pass, &mut keep)?;
        let logits = self.head_logits(&x)?.flatten_all()?.to_vec1()?;
        cache.length = end;
        Ok(logits)
    }

    /// Every linear that an adapter may change, with its name, for example `model.layers.0.self_attn.q_proj`.
    pub fn linears(&self) -> impl Iterator<Item = (String, &Linear)> {
        let all = self.layers.iter().flat_map(Layer::linears);
        all.map(|linear| (linear.weight.name.trim_end_matches(".weight").to_string(), linear))
    }

    /// The base's parameters, each once.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let mut all = vec![self.embedding.as_ref()];
        all.extend(self.positions.as_deref());
        all.extend(self.layers.iter().flat_map(Layer::parameters));
        all.extend(self.norm.parameters());
        all.extend((!Arc::ptr_eq(&self.embedding, &self.head)).then_some(self.head.as_ref()));
        all
    }

    fn pass<'a>(
        &self,
        sequences: &[(usize, usize)],
        cache: Option<&'a Cache>,
        random: Option<u64>,
    ) -> Result<Pass<'a>> {
        self.config.check_length(sequences.iter().map(|(_, to)| *to).max().unwrap_or(0))?;
        let mut start = 0;
        let spans = sequences.iter().map(|(from, to)| {
            let span = start..start + (to - from);
            start = span.end;
            Span { queries: span.clone(), keys: span }
        });
        let spans = spans.collect();
        let table = |rope: &Option<RopeConfig>| {
            rope.as_ref().map(|rope| RopeTable::new(rope, sequences, &self.device)).transpose()
        };
        let (rope, window_rope) = (table(&self.config.rope)?, table(&self.config.window_rope)?);
        let positions = sequences.iter().flat_map(|(from, to)| *from as u32..*to as u32).collect();
        Ok(Pass { spans, positions, rope, window_rope, cache, compute: self.compute, random, weights: Weights::Tuned })
    }

    /// Output (tokens, hidden) of the last layer, before the norm.
    fn hidden(&self, ids: &[u32], pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let x = self.embedding.get().index_select(&Tensor::new(ids, &self.device)?, 0)?;
        let mut x = cast(&x, DType::F32)?;
        if let (Some(alpha), Some(key)) = (self.noise, pass.random_at("embedding")) {
            x = kernels::dropout::noise(&x, &noise_bounds(&pass.spans, x.dim(1)?, alpha), key)?;
        }
        if self.config.embedding_scale != 1.0 {
            x = (x * f64::from(self.config.embedding_scale))?;
        }
        if let Some(positions) = &self.positions {
            let rows = Tensor::new(pass.positions.as_slice(), &self.device)?;
            x = kernels::add(x, &positions.get().index_select(&rows, 0)?)?;
        }
        for layer in &self.layers {
            x = match self.recompute && pass.random.is_some() {
                true => Recompute(layer).forward(&x, pass, keep)?,
                false => layer.forward(&x, pass, keep)?,
            };
        }
        Ok(x)
    }

    fn hidden_backward(
        &self,
        ids: &[u32],
        mut dx: Tensor,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<()> {
        for layer in self.layers.iter().rev() {
            dx = match self.recompute {
                true => Recompute(layer).backward(dx, pass, keep, grads)?,
                false => layer.backward(dx, pass, keep, grads)?,
            };
        }
        if self.embedding.trainable {
            let table = kernels::scatter_rows(&dx, ids, self.config.vocab_size, self.config.embedding_scale)?;
            grads.add(&self.embedding, table)?;
        }
        if let Some(positions) = self.positions.as_ref().filter(|p| p.trainable) {
            grads.add(positions, kernels::scatter_rows(&dx, &pass.positions, self.config.context, 1.0)?)?;
        }
        Ok(())
    }

    /// Logits (rows, vocab) of normalised x (rows, hidden).
    fn head_logits(&self, x: &Tensor) -> Result<Tensor> {
        let logits = matmul::linear(&scaled(x, self.config.logit_scale)?, &self.head.get(), self.compute, DType::F32)?;
        self.config.logit_softcap.map_or(Ok(logits.clone()), |cap| softcap(logits, cap))
    }

    /// Loss of normalised x (rows, hidden) and the gradients of `scale` times it.
    fn head_loss(&self, x: &Tensor, targets: &[u32], scale: Scale, want: Gradients) -> Result<CrossEntropy> {
        let (factor, head) = (self.config.logit_scale, self.head.get());
        let x = scaled(x, factor)?;
        let cap = self.config.logit_softcap;
        let mut found = time("head and loss", || cross_entropy(&x, &head, targets, scale, cap, want))?;
        if let Some(dh) = &found.hidden {
            found.hidden = Some(scaled(dh, factor)?);
        }
        Ok(found)
    }

    /// The rows of x that predict a trained token.
    fn predicting(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        Ok(x.index_select(&Tensor::new(batch.rows.as_slice(), &self.device)?, 0)?)
    }
}

/// NEFTune's largest noise for each token: alpha / sqrt(tokens of its sequence x width) (Jain et al., 2023, algorithm 1).
fn noise_bounds(spans: &[Span], width: usize, alpha: f32) -> Vec<f32> {
    let bound = |span: &Span| alpha / ((span.queries.len() * width) as f32).sqrt();
    spans.iter().flat_map(|span| std::iter::repeat_n(bound(span), span.queries.len())).collect()
}

fn scaled(x: &Tensor, factor: f32) -> Result<Tensor> {
    Ok(if factor == 1.0 { x.clone() } else { (x * f64::from(factor))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_noise_follows_the_length_of_the_sequence() {
        let span = |range: std::ops::Range<usize>| Span { queries: range.clone(), keys: range };
        // 5 / sqrt(4 x 25) and 5 / sqrt(1 x 25).
        assert_eq!(noise_bounds(&[span(0..4), span(4..5)], 25, 5.0), [0.5, 0.5, 0.5, 0.5, 1.0]);
    }
}
