//! What runs, tuning types and files ask of a model, whichever kind it is: a decoder, or an encoder-decoder.

use super::{
    Attach, Batch, DecoderConfig, Grads, LinearLayout, Model, Parameter, Source, Store,
    blocks::Linear,
    build_as,
    encoder_decoder::{EncoderDecoder, EncoderDecoderConfig},
};
use crate::{Error, Result, kernels::quantised::Quantisation};
use api::Problem;
use candle_core::{DType, Device};

/// The tensors of a model by its configuration.
pub trait Layout: Send + Sync {
    /// Every tensor: its name and how many values it has.
    fn tensors(&self) -> Vec<(String, u64)>;

    /// The linears that an adapter may change.
    fn linears(&self) -> Vec<LinearLayout>;

    /// All linears of the layers, experts' too.
    fn layer_linears(&self) -> Vec<LinearLayout>;

    /// Numbered layers: what their names begin with (`model.layers`), and how many there are.
    fn stacks(&self) -> Vec<(&str, usize)>;

    fn vocabulary(&self) -> Vocabulary<'_>;

    /// Whether files hold weights as (in, out).
    fn transposed(&self) -> bool {
        false
    }

    /// PEFT's word for what such a model does.
    fn task_type(&self) -> &'static str;

    /// The configuration of a decoder, for what only decoders have.
    fn decoder(&self) -> Result<&DecoderConfig> {
        Err(no_decoder())
    }

    fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, count)| count).sum()
    }
}

/// The modules with a row for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary<'a> {
    pub embedding: &'a str,
    pub head: &'a str,
    /// The head is the embedding.
    pub tied: bool,
}

/// A model with its weights in memory.
pub trait Network: Send + Sync {
    fn layout(&self) -> &dyn Layout;

    /// The base's parameters, each once.
    fn parameters(&self) -> Vec<&Parameter>;

    /// Every linear that an adapter may change, with its name without `.weight`.
    fn linears(&self) -> Vec<(String, &Linear)>;

    /// Sum of `-log p` over the targets of each sequence of a batch, without gradients.
    fn losses(&self, batch: &Batch) -> Result<Vec<f64>>;

    /// The same of the whole batch.
    fn loss(&self, batch: &Batch) -> Result<f64>;

    /// Sum of `-log p` over the targets; adds the gradients of `scale` times that sum to `grads`. `random` is the key of
    /// this micro-batch's random numbers.
    fn learn(&self, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64>;

    /// The decoder, for what only decoders do.
    fn decoder(&self) -> Result<&Model> {
        Err(no_decoder())
    }

    fn into_decoder(self: Box<Self>) -> Result<Model> {
        Err(no_decoder())
    }

    /// The encoder-decoder, if it is one.
    fn encoder_decoder(&self) -> Option<&EncoderDecoder> {
        None
    }
}

/// A config.json, understood.
#[derive(Clone, Debug)]
pub enum ModelConfig {
    Decoder(Box<DecoderConfig>),
    EncoderDecoder(EncoderDecoderConfig),
}

/// How a model is built.
#[derive(Clone, Copy)]
pub struct Building<'a> {
    pub source: Source<'a>,
    pub attach: &'a dyn Attach,
    pub device: &'a Device,
    pub compute: DType,
    /// How the linears of a decoder's layers are kept, if not as in their files.
    pub quantisation: Option<Quantisation>,
    /// The model only answers: matrices that a GGUF file has in blocks stay so, and x is rounded to 8 bits where it meets
    /// them.
    pub keeps_blocks: bool,
    /// No base parameter is trained, whatever `attach` says.
    pub frozen: bool,
    /// See [`Model::recompute`] and [`Model::noise`], which only decoders have.
    pub recompute: bool,
    pub noise: Option<f32>,
}

impl<'a> Building<'a> {
    /// As the source has it.
    pub fn new(source: Source<'a>, attach: &'a dyn Attach, device: &'a Device, compute: DType) -> Self {
        Self {
            source,
            attach,
            device,
            compute,
            quantisation: None,
            keeps_blocks: false,
            frozen: false,
            recompute: false,
            noise: None,
        }
    }

    /// Whether the base parameter of this name is trained.
    pub fn trains(&self, name: &str) -> bool {
        !self.frozen && self.attach.trains(name)
    }

    /// What a base parameter of this shape is kept in: float32 if it is trained or no matrix; otherwise bf16 where its file
    /// has it or the model computes in it.
    pub fn dtype(&self, name: &str, shape: &[usize]) -> DType {
        let is_bf16 = match self.source {
            Source::Files(files) => files.is_bf16(name) || self.compute == DType::BF16,
            Source::Random { .. } => self.compute == DType::BF16,
            Source::Model(model) => {
                let held = model.parameters().into_iter().find(|parameter| parameter.name == name);
                held.is_some_and(|parameter| !parameter.is_quantised() && parameter.get().dtype() == DType::BF16)
            }
        };
        if shape.len() > 1 && is_bf16 && !self.trains(name) { DType::BF16 } else { DType::F32 }
    }
}

impl ModelConfig {
    pub fn layout(&self) -> &dyn Layout {
        match self {
            Self::Decoder(config) => config.as_ref(),
            Self::EncoderDecoder(config) => config,
        }
    }

    pub fn decoder(&self) -> Result<&DecoderConfig> {
        self.layout().decoder()
    }

    pub fn is_encoder_decoder(&self) -> bool {
        matches!(self, Self::EncoderDecoder(_))
    }

    /// A problem if sequences of this length, behind so many virtual tokens, are longer than the model takes. Relative
    /// positions, which encoder-decoders have, know no end.
    pub fn check_length(&self, length: usize, ahead: usize) -> Result<()> {
        match self {
            Self::Decoder(config) => config.check_length(length, ahead),
            Self::EncoderDecoder(_) => Ok(()),
        }
    }

    /// The model; what is trained is remembered in `store`.
    pub fn build(&self, how: &Building, store: &mut Store) -> Result<Box<dyn Network>> {
        Ok(match self {
            Self::Decoder(config) => Box::new(build_as(config, how, store)?),
            Self::EncoderDecoder(config) => Box::new(EncoderDecoder::build(config, how, store)?),
        })
    }
}

impl Layout for DecoderConfig {
    fn tensors(&self) -> Vec<(String, u64)> {
        self.tensors()
    }

    fn linears(&self) -> Vec<LinearLayout> {
        (0..self.layers).flat_map(|i| self.layer(i).linears()).collect()
    }

    fn layer_linears(&self) -> Vec<LinearLayout> {
        (0..self.layers).flat_map(|i| self.layer(i).quantised_linears().cloned().collect::<Vec<_>>()).collect()
    }

    fn stacks(&self) -> Vec<(&str, usize)> {
        vec![(self.names.layers, self.layers)]
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary { embedding: self.names.embedding, head: self.names.head, tied: self.tie_embeddings }
    }

    fn transposed(&self) -> bool {
        self.transposed
    }

    fn task_type(&self) -> &'static str {
        "CAUSAL_LM"
    }

    fn decoder(&self) -> Result<&DecoderConfig> {
        Ok(self)
    }

    fn parameters(&self) -> u64 {
        self.parameters()
    }
}

impl Network for Model {
    fn layout(&self) -> &dyn Layout {
        &self.config
    }

    fn parameters(&self) -> Vec<&Parameter> {
        self.parameters()
    }

    fn linears(&self) -> Vec<(String, &Linear)> {
        self.linears().collect()
    }

    fn losses(&self, batch: &Batch) -> Result<Vec<f64>> {
        self.losses(batch)
    }

    fn loss(&self, batch: &Batch) -> Result<f64> {
        self.loss(batch)
    }

    fn learn(&self, batch: &Batch, scale: f32, random: u64, grads: &mut Grads) -> Result<f64> {
        self.learn(batch, scale, random, grads)
    }

    fn decoder(&self) -> Result<&Model> {
        Ok(self)
    }

    fn into_decoder(self: Box<Self>) -> Result<Model> {
        Ok(*self)
    }
}

fn no_decoder() -> Error {
    Problem::new(
        "needs_decoder",
        "This model is an encoder-decoder (T5, mT5), and a decoder is needed here.",
        "此模型是编码器-解码器（T5、mT5），而这里需要解码器模型。",
    )
    .hint(
        "Choose a decoder, such as starter or a Qwen or Llama model.",
        "请选择解码器模型，例如 starter、Qwen 或 Llama。",
    )
    .into()
}
