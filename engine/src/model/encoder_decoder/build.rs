//! Puts an encoder-decoder together from a configuration, files, and what a tuning type attaches.

use super::{Attention, Bias, EncoderDecoder, EncoderDecoderConfig, Layer};
use crate::{
    Result,
    files::ModelFiles,
    model::{
        Attach, Store,
        blocks::{Linear, Mlp, MlpInput, Norm, RmsNorm},
        build::checked,
        parameter::Parameter,
    },
};
use candle_core::{DType, Device};
use std::sync::Arc;

impl EncoderDecoder {
    /// The model of a folder. Trainable parameters are float32 and remembered in `store`; frozen matrices keep bf16 where
    /// their file has it or the model computes in it.
    pub fn open(
        files: &ModelFiles,
        attach: &dyn Attach,
        store: &mut Store,
        device: &Device,
        compute: DType,
    ) -> Result<Self> {
        let config = EncoderDecoderConfig::read(files.config())?;
        let c = &config;
        let mut builder = Builder { config: c, files, attach, store, device, compute };
        let vocabulary = [c.vocab_size, c.hidden_size];
        let embedding = builder.parameter("shared.weight", &vocabulary)?;
        let (encoder, encoder_norm) = builder.stack("encoder", c.encoder_layers)?;
        let (decoder, decoder_norm) = builder.stack("decoder", c.decoder_layers)?;
        let head = match files.contains(HEAD) {
            true => builder.parameter(HEAD, &vocabulary)?,
            false => embedding.clone(),
        };
        let device = device.clone();
        Ok(Self { device, compute, embedding, encoder, encoder_norm, decoder, decoder_norm, head, config })
    }
}

/// Where the head is not the embedding. (The flag `tie_word_embeddings` doesn't tell: transformers 5 ties them all.)
const HEAD: &str = "lm_head.weight";

struct Builder<'a> {
    config: &'a EncoderDecoderConfig,
    files: &'a ModelFiles,
    attach: &'a dyn Attach,
    store: &'a mut Store,
    device: &'a Device,
    compute: DType,
}

impl Builder<'_> {
    /// The layers of `encoder` or `decoder`, and the norm behind them.
    fn stack(&mut self, side: &str, layers: usize) -> Result<(Vec<Layer>, Norm)> {
        let (c, decodes) = (self.config, side == "decoder");
        let table = format!("{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let table = self.parameter(&table, &[c.buckets, c.heads])?;
        let bias = Bias { table, max_distance: c.max_distance, both_ways: !decodes };
        let layers = (0..layers).map(|i| {
            let sub = |n: usize| format!("{side}.block.{i}.layer.{n}");
            let own = self.attention(&format!("{}.SelfAttention", sub(0)), Some(bias.clone()), decodes)?;
            let cross = match decodes {
                true => {
                    Some((self.norm(&sub(1))?, self.attention(&format!("{}.EncDecAttention", sub(1)), None, false)?))
                }
                false => None,
            };
            let last = sub(if decodes { 2 } else { 1 });
            Ok(Layer {
                attention_norm: self.norm(&sub(0))?,
                attention: own,
                cross,
                mlp_norm: self.norm(&last)?,
                mlp: self.mlp(&format!("{last}.DenseReluDense"))?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok((layers, self.rms(&format!("{side}.final_layer_norm.weight"))?))
    }

    fn attention(&mut self, name: &str, bias: Option<Bias>, causal: bool) -> Result<Attention> {
        let (h, inner, heads) = (self.config.hidden_size, self.config.heads * self.config.head_dim, self.config.heads);
        let mut linear = |part: &str, inp, out| self.linear(&format!("{name}.{part}"), inp, out);
        let (q, k, v) = (linear("q", h, inner)?, linear("k", h, inner)?, linear("v", h, inner)?);
        Ok(Attention { q, k, v, out: linear("o", inner, h)?, heads, bias, causal })
    }

    fn mlp(&mut self, name: &str) -> Result<Mlp> {
        let (c, h, f) = (self.config, self.config.hidden_size, self.config.intermediate_size);
        let mut linear = |part: &str, inp, out| self.linear(&format!("{name}.{part}"), inp, out);
        let first = match c.gated {
            true => MlpInput::Gated { gate: linear("wi_0", h, f)?, up: linear("wi_1", h, f)? },
            false => MlpInput::Plain(linear("wi", h, f)?),
        };
        Ok(Mlp { first, activation: c.activation, down: linear("wo", f, h)? })
    }

    fn linear(&mut self, name: &str, inp: usize, out: usize) -> Result<Linear> {
        let weight = self.parameter(&format!("{name}.weight"), &[out, inp])?;
        self.attach.linear(name, Linear::new(weight, None), self.store)
    }

    fn norm(&mut self, sub: &str) -> Result<Norm> {
        self.rms(&format!("{sub}.layer_norm.weight"))
    }

    fn rms(&mut self, name: &str) -> Result<Norm> {
        let weight = self.parameter(name, &[self.config.hidden_size])?;
        Ok(Norm::Rms(RmsNorm { weight, eps: self.config.norm_eps, plus_one: false }))
    }

    fn parameter(&mut self, name: &str, shape: &[usize]) -> Result<Arc<Parameter>> {
        let trains = self.attach.trains(name);
        let bf16 = shape.len() > 1 && !trains && (self.files.is_bf16(name) || self.compute == DType::BF16);
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let value = checked(self.files, name, shape, dtype, self.device)?;
        Ok(if trains { self.store.add(name, value) } else { Parameter::new(name, value, false) })
    }
}
