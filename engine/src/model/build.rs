//! Puts a decoder together from a configuration, a source of weights, and what a tuning type attaches to it.

use super::{
    blocks::{
        Attention, Bottleneck, Experts, FeedForward, Layer, LayerNorm, Linear, Mlp, MlpInput, Norm, Qkv, RmsNorm,
    },
    config::{DecoderConfig, NormKind},
    decoder::Model,
    layout::{LinearLayout, MlpLayout},
    names::{MlpNames, QkvNames},
    network::{Building, Layout},
    parameter::{Parameter, Store},
    virtual_tokens::VirtualTokens,
};
use crate::{
    Error, Result,
    files::ModelFiles,
    kernels::{
        attention::Shape,
        quantised::{Quantisation, Quantised},
        values::cast,
    },
    random::{Random, name_key},
};
use api::Problem;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Where the base weights come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Files(&'a ModelFiles),
    /// Normal with the model's own deviation; norms are 1, biases 0.
    Random {
        seed: u64,
    },
    /// Those of a model that is loaded already, shared as long as neither changes them.
    Model(&'a Model),
}

impl<'a> Source<'a> {
    /// What a loaded model holds under this name.
    fn held(&self, name: &str) -> Option<&'a Parameter> {
        match self {
            Self::Model(model) => model.parameters().into_iter().find(|parameter| parameter.name == name),
            Self::Files(_) | Self::Random { .. } => None,
        }
    }
}

/// What a tuning type adds while a model is built. Everything does nothing by default.
pub trait Attach: Send + Sync {
    /// Hears of the model before anything of it is built; an error ends the building.
    fn meet(&self, config: &dyn Layout) -> Result<()> {
        let _ = config;
        Ok(())
    }

    /// Whether the base parameter of this name is trained.
    fn trains(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// May put a patch on the linear of this name.
    fn linear(&self, name: &str, linear: Linear, store: &mut Store) -> Result<Linear> {
        let _ = (name, store);
        Ok(linear)
    }

    /// May put a bottleneck behind the branch of this name (`….attention_adapter`, `….mlp_adapter`), which gives
    /// (tokens, width).
    fn bottleneck(&self, name: &str, width: usize, device: &Device, store: &mut Store) -> Result<Option<Bottleneck>> {
        let _ = (name, width, device, store);
        Ok(None)
    }

    /// Virtual tokens before each sequence of the model with this embedding.
    fn virtual_tokens(
        &self,
        config: &DecoderConfig,
        embedding: &Parameter,
        store: &mut Store,
    ) -> Result<Option<VirtualTokens>> {
        let _ = (config, embedding, store);
        Ok(None)
    }
}

/// Attaches nothing: the base model as it is.
impl Attach for () {}

/// Builds the model that computes in `compute`. Trainable parameters are float32 and remembered in `store`; frozen
/// matrices keep bf16 where their file has it or the model computes in it.
pub fn build(
    config: &DecoderConfig,
    source: &Source,
    attach: &dyn Attach,
    store: &mut Store,
    device: &Device,
    compute: DType,
) -> Result<Model> {
    build_as(config, &Building::new(*source, attach, device, compute), store)
}

/// As [`build`]. Linears that are to be quantised are those of the layers, neither embedding and head nor norms and routers;
/// each is read, quantised and forgotten before the next.
pub fn build_as(config: &DecoderConfig, how: &Building, store: &mut Store) -> Result<Model> {
    how.attach.meet(config)?;
    let mut builder = Builder { config, how, store };
    let (c, names) = (config, &config.names);
    let embedding = builder.vocabulary(names.embedding)?;
    let positions = names
        .positions
        .map(|name| builder.parameter(&weight(name), &[c.context, c.hidden_size], Value::Normal))
        .transpose()?;
    let layers = (0..c.layers).map(|i| builder.layer(i)).collect::<Result<_>>()?;
    let norm = builder.norm(names.norm, c.hidden_size)?;
    let head = match c.tie_embeddings {
        true => embedding.clone(),
        false => builder.vocabulary(names.head)?,
    };
    let virtual_tokens = how.attach.virtual_tokens(c, &embedding, builder.store)?;
    Ok(Model {
        config: c.clone(),
        device: how.device.clone(),
        compute: how.compute,
        embedding,
        positions,
        layers,
        norm,
        head,
        virtual_tokens,
        recompute: how.recompute,
        noise: how.noise,
    })
}

struct Builder<'a> {
    config: &'a DecoderConfig,
    how: &'a Building<'a>,
    store: &'a mut Store,
}

/// What a parameter of a random model begins with.
#[derive(Clone, Copy)]
enum Value {
    Normal,
    Constant(f32),
}

impl Builder<'_> {
    fn layer(&mut self, i: usize) -> Result<Layer> {
        let (c, layout) = (self.config, self.config.layer(i));
        let mut norm = |n: usize| layout.norms[n].as_deref().map(|name| self.norm(name, c.hidden_size)).transpose();
        let (attention_norm, attention_post_norm, mlp_norm, mlp_post_norm) = (norm(0)?, norm(1)?, norm(2)?, norm(3)?);
        let mut bottleneck = |branch: &str| {
            let name = format!("{}.{i}.{branch}_adapter", c.names.layers);
            self.how.attach.bottleneck(&name, c.hidden_size, self.how.device, self.store)
        };
        let (attention_adapter, mlp_adapter) = (bottleneck("attention")?, bottleneck("mlp")?);
        let qkv: Vec<Linear> = layout.qkv.iter().map(|l| self.adapted(l)).collect::<Result<_>>()?;
        let (q_norm, k_norm) = match &layout.qk_norms {
            Some([(q, q_size), (k, k_size)]) => (Some(self.norm(q, *q_size)?), Some(self.norm(k, *k_size)?)),
            None => (None, None),
        };
        Ok(Layer {
            attention_norm,
            attention: Attention {
                qkv: match (c.names.qkv, <[Linear; 3]>::try_from(qkv)) {
                    (_, Ok([q, k, v])) => Qkv::Separate { q, k, v },
                    (QkvNames::Grouped(_), Err(one)) => Qkv::Grouped(only(one)?),
                    (_, Err(one)) => Qkv::Fused(only(one)?),
                },
                out: self.adapted(&layout.out)?,
                q_norm,
                k_norm,
                shape: Shape {
                    heads: c.heads,
                    kv_heads: c.kv_heads,
                    dim: c.head_dim,
                    scale: c.attention_scale,
                    window: c.windows[i],
                    softcap: c.attention_softcap,
                },
                interleaved: c.rope.as_ref().is_some_and(|rope| rope.interleaved),
                layer: i,
            },
            attention_post_norm,
            attention_adapter,
            mlp_norm,
            mlp: match (&layout.mlp, &c.experts) {
                (MlpLayout::Experts { router, experts }, Some(e)) => FeedForward::Experts(Experts {
                    router: self.linear(router, None)?,
                    experts: experts
                        .iter()
                        .map(|linears| {
                            let linears =
                                linears.iter().map(|l| self.linear(l, self.how.quantisation)).collect::<Result<_>>()?;
                            self.mlp(e.names, linears)
                        })
                        .collect::<Result<_>>()?,
                    active: e.active,
                    normalised: e.normalised,
                }),
                (MlpLayout::Dense(linears), _) => {
                    let linears = linears.iter().map(|l| self.adapted(l)).collect::<Result<_>>()?;
                    FeedForward::Dense(self.mlp(c.names.mlp, linears)?)
                }
                (MlpLayout::Experts { .. }, None) => return Err(Error::Internal("experts without numbers".into())),
            },
            mlp_post_norm,
            mlp_adapter,
            parallel: c.parallel,
            scale: c.residual_scale,
        })
    }

    fn mlp(&self, names: MlpNames, linears: Vec<Linear>) -> Result<Mlp> {
        let alone = if matches!(names, MlpNames::Plain { .. }) { MlpInput::Plain } else { MlpInput::Fused };
        Mlp::of(linears, alone, self.config.activation)
    }

    /// A linear with what the tuning attaches to it.
    fn adapted(&mut self, layout: &LinearLayout) -> Result<Linear> {
        let linear = self.linear(layout, self.how.quantisation)?;
        self.how.attach.linear(&layout.name, linear, self.store)
    }

    fn linear(&mut self, layout: &LinearLayout, quantisation: Option<Quantisation>) -> Result<Linear> {
        let LinearLayout { name, inp, out, bias } = layout;
        let (name, transposed) = (weight(name), self.config.transposed);
        let shape = if transposed { [*inp, *out] } else { [*out, *inp] };
        let quantisation = quantisation.filter(|_| !self.how.trains(&name));
        // As the other model or the file has it, turned round or in few bits.
        let kept = match self.shared(&name) {
            Some(shared) => Some(shared),
            None => self.kept(&name, &shape)?.map(|blocks| Parameter::quantised(&name, blocks, false)),
        };
        let weight = match (kept, quantisation) {
            (Some(kept), _) => kept,
            (_, Some(kind)) => Parameter::quantised(&name, self.quantised(&name, &shape, kind)?, transposed),
            _ if transposed => {
                let stored = self.value(&name, &shape, Value::Normal)?;
                let parameter = Parameter::from_transposed(&name, &stored, self.how.trains(&name))?;
                if parameter.trainable {
                    self.store.remember(&parameter);
                }
                parameter
            }
            _ => self.parameter(&name, &shape, Value::Normal)?,
        };
        let bias = bias
            .then(|| self.parameter(&format!("{}.bias", layout.name), &[*out], Value::Constant(0.0)))
            .transpose()?;
        Ok(Linear::new(weight, bias))
    }

    /// The embedding or the head, (vocab, hidden).
    fn vocabulary(&mut self, name: &str) -> Result<Arc<Parameter>> {
        let (name, shape) = (weight(name), [self.config.vocab_size, self.config.hidden_size]);
        match self.kept(&name, &shape)? {
            Some(blocks) => Ok(Parameter::quantised(&name, blocks, false)),
            None => self.parameter(&name, &shape, Value::Normal),
        }
    }

    /// The blocks of the file, where they are kept and have a product.
    fn kept(&self, name: &str, shape: &[usize; 2]) -> Result<Option<Quantised>> {
        let Source::Files(files) = self.how.source else { return Ok(None) };
        let keeps = self.how.keeps_blocks && self.how.device.is_cpu() && !self.config.transposed;
        if !keeps || self.how.trains(name) || !files.contains(name) {
            return Ok(None);
        }
        let Some(blocks) = files.blocks(name)? else { return Ok(None) };
        check_shape(files, name, &[blocks.shape.0, blocks.shape.1], shape)?;
        Quantised::integers(blocks.kind, &blocks.bytes, blocks.shape)
    }

    /// A weight (out, in) in few bits: the blocks of the file where it has such, which fit the (out, in) of a GGUF.
    fn quantised(&self, name: &str, shape: &[usize; 2], quantisation: Quantisation) -> Result<Quantised> {
        let value = match self.how.source {
            Source::Files(files) => {
                if files.contains(name)
                    && !self.config.transposed
                    && let Some(blocks) = files.blocks(name)?
                {
                    check_shape(files, name, &[blocks.shape.0, blocks.shape.1], shape)?;
                    return Quantised::from_ggml(blocks.kind, &blocks.bytes, blocks.shape, self.how.device);
                }
                checked(files, name, shape, DType::F32, &Device::Cpu)?
            }
            Source::Random { seed } => {
                random(name, shape, seed, Value::Normal, self.config.initializer_range, &Device::Cpu)?
            }
            Source::Model(_) => return Err(missing(name)),
        };
        let value = if self.config.transposed { value.t()?.contiguous()? } else { value };
        Quantised::new(quantisation, &value, self.how.device)
    }

    fn norm(&mut self, name: &str, dim: usize) -> Result<Norm> {
        let (kind, eps) = (self.config.norm, self.config.norm_eps as f32);
        let plus_one = kind == NormKind::RmsPlusOne;
        let weight = self.parameter(&weight(name), &[dim], Value::Constant(if plus_one { 0.0 } else { 1.0 }))?;
        Ok(match kind {
            NormKind::Rms | NormKind::RmsPlusOne => Norm::Rms(RmsNorm { weight, eps, plus_one }),
            NormKind::Layer => {
                let bias = self.parameter(&format!("{name}.bias"), &[dim], Value::Constant(0.0))?;
                Norm::Layer(LayerNorm { weight, bias, eps })
            }
        })
    }

    /// A parameter of the model that this one is made of: whatever this one changes of it is its own.
    fn shared(&self, name: &str) -> Option<Arc<Parameter>> {
        let held = self.how.source.held(name).filter(|_| !self.how.trains(name))?;
        Some(Parameter::holding(name, held.value(), held.transposed))
    }

    fn parameter(&mut self, name: &str, shape: &[usize], begin: Value) -> Result<Arc<Parameter>> {
        if let Some(shared) = self.shared(name) {
            return Ok(shared);
        }
        let value = self.value(name, shape, begin)?;
        Ok(match self.how.trains(name) {
            true => self.store.add(name, value),
            false => Parameter::new(name, value, false),
        })
    }

    fn value(&self, name: &str, shape: &[usize], begin: Value) -> Result<Tensor> {
        let dtype = self.how.dtype(name, shape);
        match self.how.source {
            Source::Files(files) => checked(files, name, shape, dtype, self.how.device),
            Source::Random { seed } => {
                let value = random(name, shape, seed, begin, self.config.initializer_range, self.how.device)?;
                Ok(cast(&value, dtype)?)
            }
            Source::Model(_) => {
                let held = self.how.source.held(name).ok_or_else(|| missing(name))?;
                cast(&held.stored(held.get())?, dtype)
            }
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Internal(format!("the loaded model has no {name}"))
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}

fn only(mut linears: Vec<Linear>) -> Result<Linear> {
    linears.pop().ok_or_else(|| Error::Internal("a projection is missing".into()))
}

pub(super) fn checked(
    files: &ModelFiles,
    name: &str,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let path = files.path().display();
    if !files.contains(name) {
        return Err(Error::from(
            Problem::new(
                "missing_tensor",
                format!("{path} has no weight {name}."),
                format!("{path} 中没有权重 {name}。"),
            )
            .hint(
                "The model folder is incomplete or of another kind; get it again.",
                "模型文件夹不完整或类型不符，请重新获取。",
            ),
        ));
    }
    let tensor = files.tensor(name, dtype, device)?;
    check_shape(files, name, tensor.dims(), shape)?;
    Ok(tensor)
}

fn check_shape(files: &ModelFiles, name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    let path = files.path().display();
    Err(Error::from(
        Problem::new(
            "wrong_shape",
            format!("{path}: {name} has the shape {found:?}, config.json wants {wanted:?}."),
            format!("{path}：{name} 的形状为 {found:?}，config.json 要求 {wanted:?}。"),
        )
        .hint(
            "Weights and config.json belong to different models; get it again.",
            "权重与 config.json 不属于同一模型，请重新获取。",
        ),
    ))
}

/// Random weights depend on the seed and the name alone, not on the order of building.
fn random(name: &str, shape: &[usize], seed: u64, begin: Value, deviation: f64, device: &Device) -> Result<Tensor> {
    match begin {
        Value::Constant(value) => Ok(Tensor::full(value, shape, device)?),
        Value::Normal => normal(name, shape, seed, deviation, device),
    }
}

pub(super) fn normal(name: &str, shape: &[usize], seed: u64, deviation: f64, device: &Device) -> Result<Tensor> {
    let mut random = Random::new(seed, name_key(0, name));
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.normal() * deviation as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}
