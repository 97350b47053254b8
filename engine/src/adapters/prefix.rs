//! Prefix tuning (Li and Liang, 2021): trained keys and values before those of each sequence, in every layer; while
//! training, optionally made by an MLP. Without it, this is P-tuning v2 (Liu et al., 2022).

use super::{
    Adapter, Tuning,
    virtual_tokens::{Encoder, Part, Sizes, Soft, Start, linear, refuse_new_tokens},
};
use crate::{Result, entry::Entry};
use api::{
    Card, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, TrainParams},
};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc};

pub struct Prefix;

pub const PEFT_TYPE: &str = "PREFIX_TUNING";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PrefixParams {
    /// Trained keys and values in every layer before those of each text. They take room from the context.
    #[schemars(range(min = 1, max = 4096), extend("ui" = ui(["Virtual tokens", "虚拟词元数"], "每层中放在文本之前的可训练键和值，会占用上下文。", ["More: can learn more, slower; usual 10 to 100", "更多：能学得更多，也更慢；常用 10 到 100"])))]
    pub num_virtual_tokens: usize,
    /// Make them with a small network while training; what is saved doesn't need it.
    #[schemars(extend("ui" = ui(["Projection", "重参数化"], "训练时用小型网络生成；保存的结果不需要它。", ["Steadier, and more memory while training", "更稳定，但训练时占用更多内存"])))]
    pub prefix_projection: bool,
    /// Width of that network. Empty: that of a layer's keys.
    #[schemars(range(min = 1, max = 65536), extend("ui" = ui(["Network width", "网络宽度"], "该网络的宽度。留空则与一层的键等宽。", ["", ""])))]
    pub encoder_hidden_size: Option<usize>,
}

impl Default for PrefixParams {
    fn default() -> Self {
        Self { num_virtual_tokens: 20, prefix_projection: false, encoder_hidden_size: None }
    }
}

impl Entry for Prefix {
    fn card(&self) -> Card {
        Card {
            name: "prefix".into(),
            title: Text::new("Prefix tuning", "前缀微调"),
            help: Text::new(
                "Trained keys and values in every layer before each text: a small file, the model itself stays as it is.",
                "在每层的文本之前训练键和值：文件小，模型本身不变。",
            ),
            schema: params::schema::<PrefixParams>(),
        }
    }
}

impl Adapter for Prefix {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        refuse_new_tokens(config)?;
        let params: PrefixParams = params::read(config)?;
        if let Some(dir) = previous {
            return Ok(Box::new(Soft::read(dir, PEFT_TYPE).map_err(|e| Problems(e.into_problems()))?));
        }
        let seed = params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42);
        let encoder = PrefixEncoder { projection: params.prefix_projection, hidden: params.encoder_hidden_size };
        Ok(Box::new(encoder.tuning(params.num_virtual_tokens, seed)))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some(PEFT_TYPE)
    }

    fn read(&self, dir: &Path) -> crate::Result<Box<dyn Tuning>> {
        Ok(Box::new(Soft::read(dir, PEFT_TYPE)?))
    }
}

/// PEFT's `PrefixEncoder`: the table, or `tanh(e w₀ᵀ + b₀) w₂ᵀ + b₂` of an embedding e.
pub struct PrefixEncoder {
    pub projection: bool,
    /// Width between the two linears; none: that of a layer's keys.
    pub hidden: Option<usize>,
}

impl PrefixEncoder {
    pub fn tuning(self, count: usize, seed: u64) -> Soft {
        Soft { peft_type: PEFT_TYPE, count, deep: true, encoder: Arc::new(self), start: Start::Random, seed }
    }
}

impl Encoder for PrefixEncoder {
    fn parameters(&self, sizes: Sizes) -> Vec<Part> {
        let Sizes { count, token, width } = sizes;
        if !self.projection {
            return vec![Part::table(sizes)];
        }
        let hidden = self.hidden.unwrap_or(token);
        let [first, second] = [Part::linear("transform.0", token, hidden), Part::linear("transform.2", hidden, width)];
        [Part::embedding(count, token)].into_iter().chain(first).chain(second).collect()
    }

    fn encode(&self, p: &[Tensor], _: Option<u64>) -> Result<Tensor> {
        if !self.projection {
            return Ok(p[0].clone());
        }
        linear(&linear(&p[0], &p[1..3])?.tanh()?, &p[3..5])
    }

    fn settings(&self, sizes: Sizes) -> Map<String, Value> {
        let hidden = self.hidden.unwrap_or(sizes.token);
        Map::from_iter([
            ("prefix_projection".to_string(), json!(self.projection)),
            ("encoder_hidden_size".to_string(), json!(hidden)),
        ])
    }
}
