//! The encoder-decoder as runs, tuning types and files know a model. In a batch, a sequence is a source with its target
//! behind it: what is predicted is the target.

use super::{EncoderDecoder, Layer, Pairs};
use crate::{
    Result,
    model::{Batch, Grads, Layout, Network, Parameter, Weights, blocks::Linear},
};
use std::sync::Arc;

impl Pairs {
    /// The sequences of a batch, parted before the first token that is predicted.
    pub fn of(batch: &Batch) -> Self {
        let (mut end, mut pairs) = (0, Vec::with_capacity(batch.lengths.len()));
        for (length, range) in batch.lengths.iter().zip(batch.target_ranges()) {
            let sequence = &batch.ids[end..end + length];
            let source =
                batch.rows.get(range.start).filter(|_| !range.is_empty()).map_or(0, |row| *row as usize + 1 - end);
            pairs.push(sequence.split_at(source));
            end += length;
        }
        Self::new(pairs)
    }
}

impl Network for EncoderDecoder {
    fn layout(&self) -> &dyn Layout {
        &self.config
    }

    fn parameters(&self) -> Vec<&Parameter> {
        let mut all = vec![self.embedding.as_ref()];
        for (layers, norm) in [(&self.encoder, &self.encoder_norm), (&self.decoder, &self.decoder_norm)] {
            all.extend(layers.first().and_then(|layer| Some(layer.attention.bias.as_ref()?.table.as_ref())));
            all.extend(layers.iter().flat_map(Layer::parameters));
            all.extend(norm.parameters());
        }
        all.extend((!Arc::ptr_eq(&self.embedding, &self.head)).then_some(self.head.as_ref()));
        all
    }

    fn linears(&self) -> Vec<(String, &Linear)> {
        self.linears().collect()
    }

    fn losses(&self, batch: &Batch) -> Result<Vec<f64>> {
        let losses = self.losses(&Pairs::of(batch), Weights::Tuned)?;
        let mut left = losses.as_slice();
        let sums = batch.target_ranges().into_iter().map(|range| {
            let (own, rest) = left.split_at(range.len().min(left.len()));
            left = rest;
            own.iter().copied().map(f64::from).sum()
        });
        Ok(sums.collect())
    }

    fn loss(&self, batch: &Batch) -> Result<f64> {
        self.loss(&Pairs::of(batch), Weights::Tuned)
    }

    fn learn(&self, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        self.learn(&Pairs::of(batch), scale, random, grads)
    }

    fn encoder_decoder(&self) -> Option<&EncoderDecoder> {
        Some(self)
    }
}
