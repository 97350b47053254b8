//! P-tuning: trained virtual tokens. Version 1 (Liu et al., 2021): embeddings before each sequence, made by an MLP or an
//! LSTM while training. Version 2 (Liu et al., 2022): keys and values in every layer, which is prefix tuning without a
//! network and saved as such.

use super::{
    Adapter, Tuning,
    prefix::{self, PrefixEncoder},
    virtual_tokens::{Encoder, Part, Sizes, Soft, Start, linear, refuse_new_tokens},
};
use crate::{
    Result,
    entry::Entry,
    kernels::dropout::dropout,
    random::{mix, name_key},
};
use api::{
    Card, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, TrainParams},
};
use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc};

pub struct PTuning;

const PEFT_TYPE: &str = "P_TUNING";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PTuningParams {
    /// Trained vectors before each text. They take room from the context.
    #[schemars(range(min = 1, max = 4096), extend("ui" = ui(["Virtual tokens", "虚拟词元数"], "放在每段文本之前的可训练向量，会占用上下文。", ["More: can learn more, slower; usual 10 to 100", "更多：能学得更多，也更慢；常用 10 到 100"])))]
    pub num_virtual_tokens: usize,
    /// v1: embeddings made by a small network. v2: keys and values of their own in every layer, without a network.
    #[schemars(extend("ui" = ui(["Version", "版本"], "v1：由小型网络生成嵌入。v2：每层各有键和值，不用网络。", ["v2 learns more", "v2 学得更多"])))]
    pub p_tuning_version: Version,
    /// The network of v1.
    #[schemars(extend("ui" = ui(["Network", "网络"], "v1 所用的网络。", ["", ""])))]
    pub encoder_reparameterization_type: Network,
    /// Width of the network of v1. Empty: that of the model.
    #[schemars(range(min = 1, max = 65536), extend("ui" = ui(["Network width", "网络宽度"], "v1 网络的宽度。留空则与模型等宽。", ["", ""])))]
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; an MLP has always three linears.
    #[schemars(range(min = 1, max = 16), extend("ui" = ui(["LSTM layers", "LSTM 层数"], "LSTM 的层数；MLP 固定为三个线性层。", ["", ""])))]
    pub encoder_num_layers: usize,
    /// Share of values switched off at random between the layers of the LSTM while training; none in stages that compare
    /// policies (dpo, kto, ppo, grpo).
    #[schemars(range(min = 0.0, max = 0.95), extend("ui" = ui(["LSTM dropout", "LSTM Dropout"], "训练时在 LSTM 各层之间随机关闭的比例；比较策略的阶段（dpo、kto、ppo、grpo）不使用。", ["", ""])))]
    pub encoder_dropout: f32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Version {
    #[default]
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum Network {
    #[default]
    Mlp,
    Lstm,
}

impl Default for PTuningParams {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 20,
            p_tuning_version: Version::V1,
            encoder_reparameterization_type: Network::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
        }
    }
}

impl Entry for PTuning {
    fn card(&self) -> Card {
        Card {
            name: "p_tuning".into(),
            title: Text::new("P-tuning", "P-tuning"),
            help: Text::new(
                "Virtual tokens before each text, made by a small network while training (v1) or in every layer (v2).",
                "在每段文本前加入虚拟词元：训练时由小型网络生成（v1），或每层各有一份（v2）。",
            ),
            schema: params::schema::<PTuningParams>(),
        }
    }
}

impl Adapter for PTuning {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        refuse_new_tokens(config)?;
        let params: PTuningParams = params::read(config)?;
        let deep = params.p_tuning_version == Version::V2;
        if let Some(dir) = previous {
            let kind = if deep { prefix::PEFT_TYPE } else { PEFT_TYPE };
            return Ok(Box::new(Soft::read(dir, kind).map_err(|e| Problems(e.into_problems()))?));
        }
        let (count, seed) =
            (params.num_virtual_tokens, params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42));
        if deep {
            return Ok(Box::new(PrefixEncoder { projection: false, hidden: None }.tuning(count, seed)));
        }
        let encoder = PromptEncoder {
            network: params.encoder_reparameterization_type,
            hidden: params.encoder_hidden_size,
            layers: params.encoder_num_layers,
            dropout: params.encoder_dropout,
        };
        let (encoder, start) = (Arc::new(encoder), Start::Random);
        Ok(Box::new(Soft { peft_type: PEFT_TYPE, count, deep: false, encoder, start, seed }))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some(PEFT_TYPE)
    }

    fn read(&self, dir: &Path) -> crate::Result<Box<dyn Tuning>> {
        Ok(Box::new(Soft::read(dir, PEFT_TYPE)?))
    }
}

/// PEFT's `PromptEncoder`.
struct PromptEncoder {
    network: Network,
    /// None: that of the model.
    hidden: Option<usize>,
    layers: usize,
    dropout: f32,
}

impl Encoder for PromptEncoder {
    fn parameters(&self, sizes: Sizes) -> Vec<Part> {
        let (token, hidden) = (sizes.token, self.hidden.unwrap_or(sizes.token));
        let mut parts = vec![Part::embedding(sizes.count, token)];
        match self.network {
            Network::Mlp => {
                parts.extend(Part::linear("mlp_head.0", token, hidden));
                parts.extend(Part::linear("mlp_head.2", hidden, hidden));
                parts.extend(Part::linear("mlp_head.4", hidden, token));
            }
            Network::Lstm => {
                for layer in 0..self.layers {
                    let inp = if layer == 0 { token } else { 2 * hidden };
                    for direction in ["", "_reverse"] {
                        for (kind, shape) in [
                            ("weight_ih", &[4 * hidden, inp][..]),
                            ("weight_hh", &[4 * hidden, hidden]),
                            ("bias_ih", &[4 * hidden]),
                            ("bias_hh", &[4 * hidden]),
                        ] {
                            let name = format!("lstm_head.{kind}_l{layer}{direction}");
                            parts.push(Part::named(&name, shape, 1.0 / (hidden as f64).sqrt()));
                        }
                    }
                }
                parts.extend(Part::linear("mlp_head.0", 2 * hidden, 2 * hidden));
                parts.extend(Part::linear("mlp_head.2", 2 * hidden, token));
            }
        }
        parts
    }

    fn encode(&self, p: &[Tensor], random: Option<u64>) -> Result<Tensor> {
        if self.network == Network::Mlp {
            let x = linear(&p[0], &p[1..3])?.relu()?;
            return linear(&linear(&x, &p[3..5])?.relu()?, &p[5..7]);
        }
        let (mut x, mut rest) = (p[0].clone(), &p[1..]);
        for layer in 0..self.layers {
            if let Some(key) = random.filter(|_| layer > 0 && self.dropout > 0.0) {
                let ones = x.ones_like()?;
                x = (x * dropout(&ones, self.dropout, name_key(mix(key), &format!("lstm_head.{layer}")))?)?;
            }
            let (own, others) = rest.split_at(8);
            x = Tensor::cat(&[lstm(&x, &own[..4], false)?, lstm(&x, &own[4..], true)?], 1)?;
            rest = others;
        }
        linear(&linear(&x, &rest[..2])?.relu()?, &rest[2..4])
    }

    fn settings(&self, sizes: Sizes) -> Map<String, Value> {
        Map::from_iter([
            ("encoder_reparameterization_type".to_string(), json!(self.network)),
            ("encoder_hidden_size".into(), json!(self.hidden.unwrap_or(sizes.token))),
            ("encoder_num_layers".into(), json!(self.layers)),
            ("encoder_dropout".into(), json!(self.dropout)),
        ])
    }
}

/// One direction of one layer of an LSTM (Hochreiter and Schmidhuber, 1997) over x (steps, in), with PyTorch's four
/// parameters: (steps, hidden).
fn lstm(x: &Tensor, p: &[Tensor], reverse: bool) -> Result<Tensor> {
    let (steps, width) = (x.dim(0)?, p[1].dim(1)?);
    let from_x = x.matmul(&p[0].t()?)?.broadcast_add(&(&p[2] + &p[3])?)?;
    let to_gates = p[1].t()?;
    let mut state = Tensor::zeros((1, width), x.dtype(), x.device())?;
    let (mut cell, mut states) = (state.clone(), Vec::with_capacity(steps));
    for step in 0..steps {
        let step = if reverse { steps - 1 - step } else { step };
        let gates = (from_x.narrow(0, step, 1)? + state.matmul(&to_gates)?)?;
        let gate = |n: usize| gates.narrow(1, n * width, width);
        let (input, forget, output) = (sigmoid(&gate(0)?)?, sigmoid(&gate(1)?)?, sigmoid(&gate(3)?)?);
        cell = ((forget * cell)? + (input * gate(2)?.tanh()?)?)?;
        state = (output * cell.tanh()?)?;
        states.push(state.clone());
    }
    if reverse {
        states.reverse();
    }
    Ok(Tensor::cat(&states, 0)?)
}
