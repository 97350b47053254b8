//! T5 and mT5: an encoder over the source, a decoder that attends to it, with relative position biases. Pairs are packed
//! one after another without padding.

mod attention;
mod build;
mod config;
mod generate;
mod layer;
pub mod layout;
mod network;

pub use attention::{Attention, Bias};
pub use config::{ARCHITECTURES, EncoderDecoderConfig, cards};
pub use generate::Answering;
pub use layer::Layer;

use super::{
    Grads, Keep, Parameter, Pass, Weights,
    blocks::{Block, Linear, Norm},
};
use crate::{
    Result,
    kernels::{
        self,
        attention::Span,
        head::{CrossEntropy, Gradients, Scale, cross_entropy},
        matmul, on_worker,
        values::cast,
    },
};
use candle_core::{DType, Device, Tensor};
use layer::Side;
use std::sync::Arc;

pub struct EncoderDecoder {
    pub config: EncoderDecoderConfig,
    pub device: Device,
    /// The type that products are computed in.
    pub compute: DType,
    /// (vocab, hidden), of sources and targets.
    pub embedding: Arc<Parameter>,
    pub encoder: Vec<Layer>,
    pub encoder_norm: Norm,
    pub decoder: Vec<Layer>,
    pub decoder_norm: Norm,
    /// (vocab, hidden); the embedding itself where the files have no other.
    pub head: Arc<Parameter>,
}

/// Sources and what is to be said of each, packed. Every token of a target is predicted, from those before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    pub sources: Vec<u32>,
    pub source_lengths: Vec<usize>,
    pub targets: Vec<u32>,
    pub target_lengths: Vec<usize>,
}

impl Pairs {
    /// Pairs of (source, target); those with nothing on either side are left out.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Self {
        let mut all = Self::default();
        for (source, target) in pairs.into_iter().filter(|(source, target)| !source.is_empty() && !target.is_empty()) {
            all.sources.extend(source);
            all.source_lengths.push(source.len());
            all.targets.extend(target);
            all.target_lengths.push(target.len());
        }
        all
    }

    /// What the decoder reads: each target behind the start token, without its last.
    fn shifted(&self, start: u32) -> Vec<u32> {
        let mut end = 0;
        let shifted = self.target_lengths.iter().flat_map(|length| {
            let begin = end;
            end += length;
            [start].into_iter().chain(self.targets[begin..end - 1].iter().copied())
        });
        shifted.collect()
    }
}

/// Where the sequences of a pass stand.
struct Spans {
    sources: Vec<Span>,
    targets: Vec<Span>,
    across: Vec<Span>,
}

impl Spans {
    fn new(pairs: &Pairs) -> Self {
        let spans = |queries: &[usize], keys: &[usize]| {
            let (mut query, mut key) = (0, 0);
            let next = |(queries, keys): (&usize, &usize)| {
                let span = Span { queries: query..query + queries, keys: key..key + keys };
                (query, key) = (span.queries.end, span.keys.end);
                span
            };
            queries.iter().zip(keys).map(next).collect()
        };
        let (sources, targets) = (&pairs.source_lengths, &pairs.target_lengths);
        Self { sources: spans(sources, sources), targets: spans(targets, targets), across: spans(targets, sources) }
    }
}

impl EncoderDecoder {
    /// Logits (target tokens, vocab) of packed pairs.
    pub fn logits(&self, pairs: &Pairs) -> Result<Tensor> {
        on_worker(|| {
            let (pass, mut keep) = (self.pass(Weights::Tuned, None), Keep::nothing());
            self.head_logits(&self.states(pairs, &Spans::new(pairs), &pass, &mut keep)?.1)
        })
    }

    /// Sum of `-log p` over the targets, without gradients.
    pub fn loss(&self, pairs: &Pairs, weights: Weights) -> Result<f64> {
        Ok(self.losses(pairs, weights)?.into_iter().map(f64::from).sum())
    }

    /// `-log p` of each target token, without gradients.
    pub fn losses(&self, pairs: &Pairs, weights: Weights) -> Result<Vec<f32>> {
        if pairs.targets.is_empty() {
            return Ok(Vec::new());
        }
        on_worker(|| {
            let (pass, mut keep) = (self.pass(weights, None), Keep::nothing());
            let h = self.states(pairs, &Spans::new(pairs), &pass, &mut keep)?.1;
            Ok(self.head_loss(&h, &pairs.targets, 1.0, Gradients::None)?.losses)
        })
    }

    /// Sum of `-log p` over the targets; adds the gradients of `scale` times that sum to `grads`. `random` is the key of
    /// this micro-batch's random numbers.
    pub fn learn(&self, pairs: &Pairs, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        if pairs.targets.is_empty() {
            return Ok(0.0);
        }
        on_worker(|| {
            let (pass, spans, mut keep) = (self.pass(Weights::Tuned, Some(random)), Spans::new(pairs), Keep::default());
            let (memory, h) = self.states(pairs, &spans, &pass, &mut keep)?;
            let want = if self.head.trainable { Gradients::HiddenAndWeight } else { Gradients::Hidden };
            let mut found = self.head_loss(&h, &pairs.targets, scale, want)?;
            if let Some(dw) = found.weight.take() {
                grads.add(&self.head, dw)?;
            }
            let sum = found.sum();
            if let Some(dh) = found.hidden {
                self.backward(pairs, dh, &memory, &spans, &pass, &mut keep, grads)?;
            }
            Ok(sum)
        })
    }

    /// Every linear that an adapter may change, with its name, for example `decoder.block.0.layer.1.EncDecAttention.q`.
    pub fn linears(&self) -> impl Iterator<Item = (String, &Linear)> {
        let all = self.encoder.iter().chain(&self.decoder).flat_map(Layer::linears);
        all.map(|linear| (linear.weight.name.trim_end_matches(".weight").to_string(), linear))
    }

    fn pass(&self, weights: Weights, random: Option<u64>) -> Pass<'_> {
        Pass {
            spans: Vec::new(),
            positions: Vec::new(),
            rope: None,
            window_rope: None,
            cache: None,
            ahead: None,
            compute: self.compute,
            random,
            weights,
        }
    }

    /// Normalised outputs of the encoder (source tokens, hidden) and of the decoder (target tokens, hidden).
    fn states(&self, pairs: &Pairs, spans: &Spans, pass: &Pass, keep: &mut Keep) -> Result<(Tensor, Tensor)> {
        let memory = self.encode(&pairs.sources, &spans.sources, pass, keep)?;
        let mut x = self.embed(&pairs.shifted(self.config.start))?;
        let side = Side { own: &spans.targets, memory: Some((&memory, &spans.across)) };
        for layer in &self.decoder {
            x = layer.forward(&x, &side, pass, keep)?;
        }
        let h = self.decoder_norm.forward(&x, pass, keep)?;
        Ok((memory, h))
    }

    fn encode(&self, ids: &[u32], spans: &[Span], pass: &Pass, keep: &mut Keep) -> Result<Tensor> {
        let (mut x, side) = (self.embed(ids)?, Side { own: spans, memory: None });
        for layer in &self.encoder {
            x = layer.forward(&x, &side, pass, keep)?;
        }
        self.encoder_norm.forward(&x, pass, keep)
    }

    #[expect(clippy::too_many_arguments)]
    fn backward(
        &self,
        pairs: &Pairs,
        dh: Tensor,
        memory: &Tensor,
        spans: &Spans,
        pass: &Pass,
        keep: &mut Keep,
        grads: &mut Grads,
    ) -> Result<()> {
        let (mut dx, mut dmemory) = (self.decoder_norm.backward(dh, pass, keep, grads)?, None);
        let side = Side { own: &spans.targets, memory: Some((memory, &spans.across)) };
        for layer in self.decoder.iter().rev() {
            dx = layer.backward(dx, &side, &mut dmemory, pass, keep, grads)?;
        }
        self.embed_backward(&pairs.shifted(self.config.start), &dx, grads)?;
        let Some(dmemory) = dmemory else { return Ok(()) };
        let mut dx = self.encoder_norm.backward(dmemory, pass, keep, grads)?;
        let side = Side { own: &spans.sources, memory: None };
        for layer in self.encoder.iter().rev() {
            dx = layer.backward(dx, &side, &mut None, pass, keep, grads)?;
        }
        self.embed_backward(&pairs.sources, &dx, grads)
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        cast(&self.embedding.get().index_select(&Tensor::new(ids, &self.device)?, 0)?, DType::F32)
    }

    fn embed_backward(&self, ids: &[u32], dx: &Tensor, grads: &mut Grads) -> Result<()> {
        if !self.embedding.trainable {
            return Ok(());
        }
        grads.add(&self.embedding, kernels::scatter_rows(dx, ids, self.config.vocab_size, 1.0)?)
    }

    /// Logits (rows, vocab) of normalised h (rows, hidden).
    fn head_logits(&self, h: &Tensor) -> Result<Tensor> {
        let h = (h * f64::from(self.config.head_scale))?;
        matmul::linear(&h, &self.head.get(), self.compute, DType::F32)
    }

    fn head_loss(&self, h: &Tensor, targets: &[u32], scale: f32, want: Gradients) -> Result<CrossEntropy> {
        let factor = f64::from(self.config.head_scale);
        let mut found = cross_entropy(&(h * factor)?, &self.head.get(), targets, Scale::All(scale), None, want)?;
        if let Some(dh) = &found.hidden {
            found.hidden = Some((dh * factor)?);
        }
        Ok(found)
    }
}
