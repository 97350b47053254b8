//! Puts an encoder-decoder together from a configuration, a source of weights, and what a tuning type attaches.

use super::{
    Attention, Bias, EncoderDecoder, EncoderDecoderConfig, Layer,
    layout::{EMBEDDING, HEAD, Stack},
};
use crate::{
    Error, Result,
    files::ModelFiles,
    kernels::values::cast,
    model::{
        Attach, Building, LinearLayout, Source, Store,
        blocks::{Linear, Mlp, MlpInput, Norm, RmsNorm},
        build::{checked, normal},
        parameter::Parameter,
    },
};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

impl EncoderDecoder {
    /// The model of a folder.
    pub fn open(
        files: &ModelFiles,
        attach: &dyn Attach,
        store: &mut Store,
        device: &Device,
        compute: DType,
    ) -> Result<Self> {
        let config = EncoderDecoderConfig::of(files, files.config())?;
        Self::build(&config, &Building::new(Source::Files(files), attach, device, compute), store)
    }

    /// Trainable parameters are float32 and remembered in `store`.
    pub fn build(config: &EncoderDecoderConfig, how: &Building, store: &mut Store) -> Result<Self> {
        how.attach.meet(config)?;
        let c = config;
        let mut builder = Builder { config: c, how, store };
        let vocabulary = [c.vocab_size, c.hidden_size];
        // As a head without a factor, it must give logits of 1.
        let deviation = if c.tied && c.head_scale == 1.0 { root(c.hidden_size) } else { 1.0 };
        let embedding = builder.parameter(&weight(EMBEDDING), &vocabulary, Some(deviation))?;
        let (encoder, encoder_norm) = builder.stack(Stack::Encoder)?;
        let (decoder, decoder_norm) = builder.stack(Stack::Decoder)?;
        let head = match c.tied {
            true => embedding.clone(),
            // Of the width, unlike transformers', whose 1 makes the first losses of mT5 hundreds.
            false => builder.parameter(&weight(HEAD), &vocabulary, Some(root(c.hidden_size)))?,
        };
        let (device, compute, config) = (how.device.clone(), how.compute, config.clone());
        Ok(Self { device, compute, embedding, encoder, encoder_norm, decoder, decoder_norm, head, config })
    }
}

struct Builder<'a> {
    config: &'a EncoderDecoderConfig,
    how: &'a Building<'a>,
    store: &'a mut Store,
}

impl Builder<'_> {
    /// The layers of one stack, and the norm behind them.
    fn stack(&mut self, stack: Stack) -> Result<(Vec<Layer>, Norm)> {
        let c = self.config;
        let table = self.parameter(&stack.biases(), &[c.buckets, c.heads], Some(root(c.hidden_size)))?;
        let bias = Bias { table, max_distance: c.max_distance, both_ways: stack == Stack::Encoder };
        let layers = (0..c.layers(stack)).map(|i| {
            let layout = c.layer(stack, i);
            let mut norms = layout.norms.iter().map(|name| self.norm(name)).collect::<Result<Vec<_>>>()?.into_iter();
            let mut norm = || norms.next().ok_or_else(|| Error::Internal("a norm is missing".into()));
            let attention_norm = norm()?;
            let attention = self.attention(&layout.attention, Some(bias.clone()), stack == Stack::Decoder)?;
            let cross = match &layout.cross {
                Some(linears) => Some((norm()?, self.attention(linears, None, false)?)),
                None => None,
            };
            Ok(Layer { attention_norm, attention, cross, mlp_norm: norm()?, mlp: self.mlp(&layout.mlp)? })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok((layers, self.norm(&format!("{}.final_layer_norm", stack.name()))?))
    }

    fn attention(&mut self, linears: &[LinearLayout; 4], bias: Option<Bias>, causal: bool) -> Result<Attention> {
        let ([q, k, v, out], heads) = (linears, self.config.heads);
        // Scores have no scale: the queries begin that much smaller.
        let narrow = root(self.config.hidden_size) * root(self.config.head_dim);
        let (q, k, v) = (self.linear(q, narrow)?, self.plain(k)?, self.plain(v)?);
        Ok(Attention { q, k, v, out: self.plain(out)?, heads, bias, causal })
    }

    fn mlp(&mut self, linears: &[LinearLayout]) -> Result<Mlp> {
        let linears = linears.iter().map(|linear| self.plain(linear)).collect::<Result<_>>()?;
        Mlp::of(linears, MlpInput::Plain, self.config.activation)
    }

    fn plain(&mut self, layout: &LinearLayout) -> Result<Linear> {
        self.linear(layout, root(layout.inp))
    }

    fn linear(&mut self, layout: &LinearLayout, deviation: f64) -> Result<Linear> {
        let weight = self.parameter(&weight(&layout.name), &[layout.out, layout.inp], Some(deviation))?;
        self.how.attach.linear(&layout.name, Linear::new(weight, None), self.store)
    }

    fn norm(&mut self, name: &str) -> Result<Norm> {
        let weight = self.parameter(&weight(name), &[self.config.hidden_size], None)?;
        Ok(Norm::Rms(RmsNorm { weight, eps: self.config.norm_eps, plus_one: false }))
    }

    /// A random model's begins as normal numbers of this deviation, or with ones.
    fn parameter(&mut self, name: &str, shape: &[usize], deviation: Option<f64>) -> Result<Arc<Parameter>> {
        let (dtype, device) = (self.how.dtype(name, shape), self.how.device);
        let value = match (self.how.source, deviation) {
            (Source::Files(files), _) => checked(files, name, shape, dtype, device)?,
            (Source::Random { seed }, Some(deviation)) => {
                cast(&normal(name, shape, seed, deviation * self.config.initializer_factor, device)?, dtype)?
            }
            (Source::Random { .. }, None) => Tensor::ones(shape, dtype, device)?,
            (Source::Model(_), _) => return Err(Error::Internal("an encoder-decoder made of a decoder".into())),
        };
        Ok(if self.how.trains(name) { self.store.add(name, value) } else { Parameter::new(name, value, false) })
    }
}

/// T5's deviation of a random weight that so many values lead into.
fn root(inputs: usize) -> f64 {
    1.0 / (inputs as f64).sqrt()
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}
