//! Answers of an encoder-decoder in the making: what is held of the source and of the tokens so far.

use super::{EncoderDecoder, Layer};
use crate::{
    Result, kernels,
    kernels::{attention::Span, on_worker},
    model::{
        Keep, Pass, Weights,
        blocks::{Block, forward_all},
    },
};
use candle_core::Tensor;
use std::sync::Arc;

/// An answer in the making, a token at a time. A clone goes on by itself.
#[derive(Clone)]
pub struct Answering {
    /// Keys and values of the source, by layer.
    across: Arc<Vec<(Tensor, Tensor)>>,
    /// Those of the tokens so far.
    held: Vec<Option<(Tensor, Tensor)>>,
}

impl EncoderDecoder {
    /// Begins an answer to a source.
    pub fn answering(&self, source: &[u32]) -> Result<Answering> {
        on_worker(|| {
            let across = self.read(source, &self.pass(Weights::Tuned, None))?.into();
            Ok(Answering { across, held: vec![None; self.decoder.len()] })
        })
    }

    /// Logits (vocab) of each answer's next token, behind its last one, which at first is [`start`](Self::start).
    pub fn step_all(&self, last: &[u32], answers: &mut [Answering]) -> Result<Vec<Vec<f32>>> {
        on_worker(|| Ok(self.next(last, answers, &self.pass(Weights::Tuned, None))?.to_vec2()?))
    }

    /// The token that stands before every answer.
    pub fn start(&self) -> u32 {
        self.config.start
    }

    /// Keys and values of a source for each layer of the decoder.
    fn read(&self, source: &[u32], pass: &Pass) -> Result<Vec<(Tensor, Tensor)>> {
        let whole = [Span { queries: 0..source.len(), keys: 0..source.len() }];
        let memory = self.encode(source, &whole, pass, &mut Keep::nothing())?;
        self.decoder.iter().map(|layer| across(layer, &memory, pass)).collect()
    }

    /// Logits (answers, vocab) of each answer's next token; the last joins what is held.
    fn next(&self, last: &[u32], answers: &mut [Answering], pass: &Pass) -> Result<Tensor> {
        let keep = &mut Keep::nothing();
        let mut x = self.embed(last)?;
        for (i, layer) in self.decoder.iter().enumerate() {
            let own = &layer.attention;
            let qkv =
                forward_all(&[&own.q, &own.k, &own.v], &layer.attention_norm.forward(&x, pass, keep)?, pass, keep)?;
            let seen = answers.iter_mut().enumerate().map(|(row, answer)| {
                let part = |n: usize| qkv[n].narrow(0, row, 1);
                let (k, v) = match answer.held[i].take() {
                    Some((k, v)) => (Tensor::cat(&[k, part(1)?], 0)?, Tensor::cat(&[v, part(2)?], 0)?),
                    None => (part(1)?, part(2)?),
                };
                let y = own.attend(&part(0)?, &k, &v)?;
                answer.held[i] = Some((k, v));
                Ok(y)
            });
            let seen = Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 0)?;
            x = kernels::add(own.out.forward(&seen, pass, keep)?, &x)?;
            if let Some((norm, cross)) = &layer.cross {
                let q = cross.q.forward(&norm.forward(&x, pass, keep)?, pass, keep)?;
                let seen = answers.iter().enumerate().filter_map(|(row, answer)| {
                    answer.across.get(i).map(|(k, v)| cross.attend(&q.narrow(0, row, 1)?, k, v))
                });
                let seen = Tensor::cat(&seen.collect::<Result<Vec<_>>>()?, 0)?;
                x = kernels::add(cross.out.forward(&seen, pass, keep)?, &x)?;
            }
            let y = layer.mlp_norm.forward(&x, pass, keep)?;
            x = kernels::add(layer.mlp.forward(&y, pass, keep)?, &x)?;
        }
        self.head_logits(&self.decoder_norm.forward(&x, pass, keep)?)
    }
}

/// Keys and values of the source for a layer of the decoder.
fn across(layer: &Layer, memory: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
    let missing = || crate::Error::Internal("a decoder without cross attention".into());
    let (_, cross) = layer.cross.as_ref().ok_or_else(missing)?;
    let mut both = forward_all(&[&cross.k, &cross.v], memory, pass, &mut Keep::nothing())?;
    both.pop().zip(both.pop()).map(|(v, k)| (k, v)).ok_or_else(missing)
}
