//! Puts a decoder together from a configuration, a source of weights, and what a tuning type attaches to it.

use super::{
    blocks::{Attention, GatedMlp, Layer, Linear, RmsNorm},
    config::DecoderConfig,
    decoder::Model,
    parameter::{Parameter, Store},
};
use crate::{
    Error, Result,
    files::ModelFiles,
    kernels::{attention::Shape, values::cast},
    random::{Random, name_key},
};
use api::Problem;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Where the base weights come from.
pub enum Source<'a> {
    Files(&'a ModelFiles),
    /// Normal with the model's own deviation; norms are 1, biases 0.
    Random {
        seed: u64,
    },
}

/// What a tuning type adds while a model is built. Everything does nothing by default.
pub trait Attach: Send + Sync {
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
    let mut builder = Builder { config, source, attach, store, device, compute };
    let c = config;
    let embedding = builder.parameter("model.embed_tokens.weight", &[c.vocab_size, c.hidden_size])?;
    let layers = (0..c.layers).map(|i| builder.layer(i)).collect::<Result<_>>()?;
    let norm = builder.norm("model.norm.weight", c.hidden_size)?;
    let head = match c.tie_embeddings {
        true => embedding.clone(),
        false => builder.parameter("lm_head.weight", &[c.vocab_size, c.hidden_size])?,
    };
    Ok(Model { config: c.clone(), device: device.clone(), compute, embedding, layers, norm, head, recompute: false })
}

struct Builder<'a> {
    config: &'a DecoderConfig,
    source: &'a Source<'a>,
    attach: &'a dyn Attach,
    store: &'a mut Store,
    device: &'a Device,
    compute: DType,
}

impl Builder<'_> {
    fn layer(&mut self, i: usize) -> Result<Layer> {
        let c = self.config;
        let (h, d, f) = (c.hidden_size, c.head_dim, c.intermediate_size);
        let (q, kv) = (c.heads * d, c.kv_heads * d);
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let shape = Shape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            dim: d,
            scale: 1.0 / (d as f32).sqrt(),
            window: c.windows[i],
            softcap: None,
        };
        let head_norm = |b: &mut Self, part: &str| {
            c.qk_norm.then(|| b.norm(&name(&format!("self_attn.{part}.weight")), d)).transpose()
        };
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm.weight"), h)?,
            attention: Attention {
                q: self.linear(&name("self_attn.q_proj"), h, q, c.qkv_bias)?,
                k: self.linear(&name("self_attn.k_proj"), h, kv, c.qkv_bias)?,
                v: self.linear(&name("self_attn.v_proj"), h, kv, c.qkv_bias)?,
                out: self.linear(&name("self_attn.o_proj"), q, h, c.out_bias)?,
                q_norm: head_norm(self, "q_norm")?,
                k_norm: head_norm(self, "k_norm")?,
                shape,
                layer: i,
            },
            mlp_norm: self.norm(&name("post_attention_layernorm.weight"), h)?,
            mlp: GatedMlp {
                gate: self.linear(&name("mlp.gate_proj"), h, f, c.mlp_bias)?,
                up: self.linear(&name("mlp.up_proj"), h, f, c.mlp_bias)?,
                down: self.linear(&name("mlp.down_proj"), f, h, c.mlp_bias)?,
            },
        })
    }

    fn linear(&mut self, name: &str, inp: usize, out: usize, bias: bool) -> Result<Linear> {
        let weight = self.parameter(&format!("{name}.weight"), &[out, inp])?;
        let bias = bias.then(|| self.parameter(&format!("{name}.bias"), &[out])).transpose()?;
        self.attach.linear(name, Linear { weight, bias, branch: None }, self.store)
    }

    fn norm(&mut self, name: &str, dim: usize) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: self.parameter(name, &[dim])?, eps: self.config.norm_eps as f32 })
    }

    fn parameter(&mut self, name: &str, shape: &[usize]) -> Result<Arc<Parameter>> {
        let trains = self.attach.trains(name);
        let in_file = matches!(self.source, Source::Files(files) if files.is_bf16(name));
        let bf16 = shape.len() > 1 && !trains && (in_file || self.compute == DType::BF16);
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let value = match self.source {
            Source::Files(files) => checked(files, name, shape, dtype, self.device)?,
            Source::Random { seed } => random(name, shape, *seed, self.config.initializer_range, dtype, self.device)?,
        };
        Ok(match trains {
            true => self.store.add(name, value),
            false => Parameter::new(name, value, false),
        })
    }
}

fn checked(files: &ModelFiles, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
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
    if tensor.dims() != shape {
        let found = tensor.dims();
        return Err(Error::from(
            Problem::new(
                "wrong_shape",
                format!("{path}: {name} has the shape {found:?}, config.json wants {shape:?}."),
                format!("{path}：{name} 的形状为 {found:?}，config.json 要求 {shape:?}。"),
            )
            .hint(
                "Weights and config.json belong to different models; get it again.",
                "权重与 config.json 不属于同一模型，请重新获取。",
            ),
        ));
    }
    Ok(tensor)
}

/// Random weights depend on the seed and the name alone, not on the order of building.
fn random(name: &str, shape: &[usize], seed: u64, deviation: f64, dtype: DType, device: &Device) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let values = if name.ends_with(".bias") {
        vec![0.0; count]
    } else if name.ends_with("norm.weight") {
        vec![1.0; count]
    } else {
        let mut random = Random::new(seed, name_key(0, name));
        (0..count).map(|_| random.normal() * deviation as f32).collect()
    };
    Ok(cast(&Tensor::from_vec(values, shape, device)?, dtype)?)
}
