//! Bottleneck adapters: a small trained MLP behind the branches of each layer, `y + up(activation(down(y)))`. Houlsby et
//! al. (2019) place one behind the attention and one behind the MLP, Pfeiffer et al. (2021) only the latter. PEFT has none
//! of this kind: the folder looks like one of PEFT's, with the peft_type `BOTTLENECK` that Lathe alone reads.

use super::{
    Adapter, Base, Precision, Tuning,
    problems::{beside, check_type, other_shape},
    virtual_tokens::refuse_new_tokens,
};
use crate::{
    Error, Result,
    entry::Entry,
    files::adapter::{Card as FolderCard, read_config_as, read_tensors, write_own},
    kernels::{activation::Activation, values::cast},
    model::{
        Attach, Layout, Network, Store,
        blocks::{Bottleneck, Linear},
    },
    random::{Random, name_key},
};
use api::{
    Card, Problems, RunConfig, Text,
    catalog::ui,
    params::{self, TrainParams},
};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

pub struct BottleneckAdapter;

pub const PEFT_TYPE: &str = "BOTTLENECK";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BottleneckParams {
    /// Behind attention and MLP of each layer (houlsby), or behind the MLP only (pfeiffer).
    #[schemars(extend("ui" = ui(["Places", "位置"], "放在每层的注意力与 MLP 之后（houlsby），或仅放在 MLP 之后（pfeiffer）。", ["houlsby learns more; pfeiffer is half the size", "houlsby 学得更多；pfeiffer 小一半"])))]
    pub adapter_place: Places,
    /// Width of the bottleneck. Empty: a sixteenth of the model's width.
    #[schemars(range(min = 1, max = 65536), extend("ui" = ui(["Width", "宽度"], "瓶颈的宽度。留空为模型宽度的十六分之一。", ["Higher: can learn more, larger file", "调高：能学得更多，文件更大"])))]
    pub adapter_size: Option<usize>,
    /// The function between its two linears.
    #[schemars(extend("ui" = ui(["Non-linearity", "激活函数"], "两个线性层之间的函数。", ["", ""])))]
    pub adapter_non_linearity: NonLinearity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Places {
    #[default]
    Houlsby,
    Pfeiffer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum NonLinearity {
    #[default]
    Relu,
    Gelu,
    Silu,
}

impl Default for BottleneckParams {
    fn default() -> Self {
        Self { adapter_place: Places::Houlsby, adapter_size: None, adapter_non_linearity: NonLinearity::Relu }
    }
}

impl Entry for BottleneckAdapter {
    fn card(&self) -> Card {
        Card {
            name: "adapter".into(),
            title: Text::new("Adapter", "Adapter"),
            help: Text::new(
                "A small trained network behind each branch of the frozen model. Only Lathe reads it; it can't be merged.",
                "在冻结模型的各分支后训练小型网络。仅 Lathe 可读取，且无法合并。",
            ),
            schema: params::schema::<BottleneckParams>(),
        }
    }
}

impl Adapter for BottleneckAdapter {
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems> {
        refuse_new_tokens(config)?;
        let params: BottleneckParams = params::read(config)?;
        let seed = params::read::<TrainParams>(config).map(|p| p.seed).unwrap_or(42);
        Ok(Box::new(match previous {
            Some(dir) => BottleneckTuning::read(dir).map_err(|e| Problems(e.into_problems()))?,
            None => BottleneckTuning { params, seed, values: BTreeMap::new(), origin: String::new() },
        }))
    }

    fn peft_type(&self) -> Option<&'static str> {
        Some(PEFT_TYPE)
    }

    fn read(&self, dir: &Path) -> Result<Box<dyn Tuning>> {
        Ok(Box::new(BottleneckTuning::read(dir)?))
    }
}

/// Bottlenecks in one model, new or read from a folder.
pub struct BottleneckTuning {
    params: BottleneckParams,
    seed: u64,
    /// Values to begin with, by parameter name; empty for new ones.
    values: BTreeMap<String, Tensor>,
    /// Where they came from, for messages.
    origin: String,
}

impl BottleneckTuning {
    pub fn read(dir: &Path) -> Result<Self> {
        check_type(dir, PEFT_TYPE)?;
        let origin = dir.display().to_string();
        Ok(Self { params: read_config_as(dir)?, seed: 0, values: read_tensors(dir, &Device::Cpu)?, origin })
    }

    fn size(&self, width: usize) -> usize {
        self.params.adapter_size.unwrap_or((width / 16).max(1))
    }

    fn branches(&self) -> &'static [&'static str] {
        match self.params.adapter_place {
            Places::Houlsby => &["attention_adapter", "mlp_adapter"],
            Places::Pfeiffer => &["mlp_adapter"],
        }
    }

    /// As read; otherwise as PyTorch begins a linear, but `up` with zeros: the model begins as its base.
    fn value(&self, name: &str, shape: &[usize], inp: usize, device: &Device) -> Result<Tensor> {
        if !self.values.is_empty() {
            let found = self.values.get(name);
            return match found.filter(|value| value.dims() == shape) {
                Some(value) => Ok(cast(value, DType::F32)?.to_device(device)?),
                None => Err(other_shape(&self.origin, name, found.map_or(&[], Tensor::dims), shape)),
            };
        }
        if name.contains(".up.") {
            return Ok(Tensor::zeros(shape, DType::F32, device)?);
        }
        let (mut random, bound) = (Random::new(self.seed, name_key(3, name)), 1.0 / (inp as f64).sqrt());
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| ((random.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

impl Attach for BottleneckTuning {
    fn bottleneck(&self, name: &str, width: usize, device: &Device, store: &mut Store) -> Result<Option<Bottleneck>> {
        if !self.branches().iter().any(|branch| name.ends_with(branch)) {
            return Ok(None);
        }
        let mut linear = |part: &str, inp: usize, out: usize| -> Result<Linear> {
            let mut parameter = |kind: &str, shape: &[usize]| -> Result<_> {
                let name = format!("{name}.{part}.{kind}");
                let value = self.value(&name, shape, inp, device)?;
                Ok(store.add(name, value))
            };
            Ok(Linear::new(parameter("weight", &[out, inp])?, Some(parameter("bias", &[out])?)))
        };
        let size = self.size(width);
        let activation = match self.params.adapter_non_linearity {
            NonLinearity::Relu => Activation::Relu,
            NonLinearity::Gelu => Activation::Gelu,
            NonLinearity::Silu => Activation::Silu,
        };
        Ok(Some(Bottleneck::new(linear("down", width, size)?, activation, linear("up", size, width)?)))
    }
}

impl Tuning for BottleneckTuning {
    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        let config = layout.decoder()?;
        let (width, branches) = (config.hidden_size, self.branches());
        let (size, count) = (self.size(width), config.layers * branches.len());
        if !self.values.is_empty() && self.values.len() != 4 * count {
            return Err(other_shape(&self.origin, "adapter_model.safetensors", &[self.values.len()], &[4 * count]));
        }
        let values = count * (2 * width * size + width + size);
        Ok((values as u64, branches.iter().map(|branch| (*branch).to_string()).collect()))
    }

    fn merges(&self) -> Result<()> {
        Err(beside("networks of its own behind the branches", "各分支之后的独立网络"))
    }

    fn save(&self, dir: &Path, model: &dyn Network, store: &Store, base: &Base, _: Precision) -> Result<()> {
        let size = self.size(model.decoder()?.config.hidden_size);
        let params = BottleneckParams { adapter_size: Some(size), ..self.params.clone() };
        let config = serde_json::to_value(&params).map_err(|e| Error::Internal(e.to_string()))?;
        let config: Map<String, Value> = config.as_object().cloned().unwrap_or_default();
        let tensors = store.trainable().map(|parameter| (parameter.name.clone(), parameter.get())).collect();
        let rows = [
            ("places", json!(params.adapter_place).as_str().unwrap_or_default().to_string()),
            ("width", size.to_string()),
        ];
        let card = FolderCard {
            title: "Bottleneck adapter",
            tag: "bottleneck-adapter",
            base: base.name,
            in_peft: false,
            rows: &rows,
        };
        write_own(dir, PEFT_TYPE, config, &tensors, &card)
    }
}
