//! What prompt tuning, P-tuning and prefix tuning share: trained vectors before each sequence, saved as PEFT saves them,
//! as one flat table `prompt_embeddings`. What makes the table while training (an encoder) stays in the checkpoints.

use super::{
    Base, Precision, Tuning,
    problems::{beside, check_type, other_shape},
};
use crate::{
    Error, Result,
    files::adapter::{Card, read_config_as, read_tensors, write_own},
    kernels::values::cast,
    model::{Attach, DecoderConfig, Layout, Network, Parameter, Place, Store, VirtualTokens},
    random::{Random, name_key},
};
use api::{Problem, Problems, RunConfig, params, params::ModelParams};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use tokenizers::Tokenizer;

/// The tensor of a PEFT folder.
const TABLE: &str = "prompt_embeddings";
/// Before the names of an encoder's parameters.
const ENCODER: &str = "prompt_encoder.";

/// Virtual tokens that are trained, of one PEFT type.
pub struct Soft {
    pub peft_type: &'static str,
    pub count: usize,
    /// Keys and values of every layer instead of embeddings.
    pub deep: bool,
    pub encoder: Arc<dyn Encoder>,
    pub start: Start,
    pub seed: u64,
}

/// What the table begins with, where there is no encoder.
pub enum Start {
    /// Standard normal, as PyTorch begins an embedding.
    Random,
    /// Embeddings of random tokens.
    Vocabulary,
    /// Embeddings of a text's tokens, again and again or cut as the number asks for.
    Text { text: String, ids: Vec<u32> },
    /// As read from a folder, named for messages.
    Values { values: Tensor, origin: String },
}

/// Makes the table from parameters of its own.
pub trait Encoder: Send + Sync {
    /// Its parameters, by PEFT's names.
    fn parameters(&self, sizes: Sizes) -> Vec<Part>;

    /// The table (count, width) from the parameters in their order; by operations that candle can differentiate.
    fn encode(&self, parameters: &[Tensor], random: Option<u64>) -> Result<Tensor>;

    /// Keys of PEFT's configuration that are this encoder's.
    fn settings(&self, sizes: Sizes) -> Map<String, Value>;
}

#[derive(Clone, Copy)]
pub struct Sizes {
    pub count: usize,
    /// Width of a token: the model's, or that of one layer's keys.
    pub token: usize,
    /// Width of the table.
    pub width: usize,
}

/// A parameter to be made.
pub struct Part {
    pub name: String,
    pub shape: Vec<usize>,
    /// Uniform in ± this; standard normal without.
    pub bound: Option<f64>,
}

impl Part {
    /// The table itself.
    pub fn table(sizes: Sizes) -> Self {
        Self { name: TABLE.into(), shape: vec![sizes.count, sizes.width], bound: None }
    }

    pub fn embedding(rows: usize, width: usize) -> Self {
        Self { name: format!("{ENCODER}embedding.weight"), shape: vec![rows, width], bound: None }
    }

    /// Weight and bias of a linear, as PyTorch begins them.
    pub fn linear(name: &str, inp: usize, out: usize) -> [Self; 2] {
        let part = |kind, shape| Self {
            name: format!("{ENCODER}{name}.{kind}"),
            shape,
            bound: Some(1.0 / (inp as f64).sqrt()),
        };
        [part("weight", vec![out, inp]), part("bias", vec![out])]
    }

    pub fn named(name: &str, shape: &[usize], bound: f64) -> Self {
        Self { name: format!("{ENCODER}{name}"), shape: shape.to_vec(), bound: Some(bound) }
    }

    fn value(&self, seed: u64, device: &Device) -> Result<Tensor> {
        let mut random = Random::new(seed, name_key(2, &self.name));
        let mut next = || match self.bound {
            Some(bound) => ((random.uniform() * 2.0 - 1.0) * bound) as f32,
            None => random.normal(),
        };
        let values: Vec<f32> = (0..self.shape.iter().product()).map(|_| next()).collect();
        Ok(Tensor::from_vec(values, self.shape.as_slice(), device)?)
    }
}

/// The table itself is trained. Holds the keys of the configuration.
pub struct Table(pub Map<String, Value>);

impl Encoder for Table {
    fn parameters(&self, sizes: Sizes) -> Vec<Part> {
        vec![Part::table(sizes)]
    }

    fn encode(&self, parameters: &[Tensor], _: Option<u64>) -> Result<Tensor> {
        Ok(parameters[0].clone())
    }

    fn settings(&self, _: Sizes) -> Map<String, Value> {
        self.0.clone()
    }
}

/// `x wᵀ + b` with the two parameters of a linear.
pub fn linear(x: &Tensor, parameters: &[Tensor]) -> Result<Tensor> {
    Ok(x.matmul(&parameters[0].t()?)?.broadcast_add(&parameters[1])?)
}

impl Soft {
    /// The virtual tokens of a PEFT folder of this type; they are trained further as they are, without an encoder.
    pub fn read(dir: &Path, peft_type: &'static str) -> Result<Self> {
        let origin = dir.display().to_string();
        check_type(dir, peft_type)?;
        let mut config: Map<String, Value> = read_config_as(dir)?;
        let mut tensors = read_tensors(dir, &Device::Cpu)?;
        let wanted = config.get("num_virtual_tokens").and_then(Value::as_u64).unwrap_or(0) as usize;
        let table = tensors.remove(TABLE).filter(|t| t.dims().len() == 2 && t.dims()[0] == wanted && wanted > 0);
        let values = table.ok_or_else(|| {
            Problem::new(
                "damaged_adapter",
                format!("{origin} has no {TABLE} of num_virtual_tokens ({wanted}) rows."),
                format!("{origin} 中没有行数为 num_virtual_tokens（{wanted}）的 {TABLE}。"),
            )
            .hint("The folder is incomplete; get it again.", "文件夹不完整，请重新获取。")
            .field("adapter_name_or_path")
        })?;
        config.retain(|key, _| !COMMON.contains(&key.as_str()));
        Ok(Self {
            peft_type,
            count: wanted,
            deep: peft_type == "PREFIX_TUNING",
            encoder: Arc::new(Table(config)),
            start: Start::Values { values: cast(&values, DType::F32)?, origin },
            seed: 0,
        })
    }

    fn place(&self, c: &DecoderConfig) -> Place {
        match self.deep {
            false => Place::Input,
            true => Place::Keys { layers: c.layers, heads: c.kv_heads, dim: c.head_dim },
        }
    }

    fn sizes(&self, c: &DecoderConfig) -> Sizes {
        let token = if self.deep { c.kv_heads * c.head_dim } else { c.hidden_size };
        Sizes { count: self.count, token, width: if self.deep { c.layers * 2 * token } else { token } }
    }

    fn parts(&self, c: &DecoderConfig) -> Vec<Part> {
        self.encoder.parameters(self.sizes(c))
    }

    /// What a parameter begins with.
    fn value(&self, part: &Part, c: &DecoderConfig, embedding: &Parameter) -> Result<Tensor> {
        let table = embedding.get();
        let device = table.device();
        let ids: Vec<u32> = match &self.start {
            _ if part.name != TABLE => return part.value(self.seed, device),
            Start::Random => return part.value(self.seed, device),
            Start::Values { values, .. } => return Ok(values.to_device(device)?),
            Start::Text { ids, .. } => ids.iter().copied().cycle().take(self.count).collect(),
            Start::Vocabulary => {
                let mut random = Random::new(self.seed, name_key(2, &part.name));
                (0..self.count).map(|_| random.below(c.vocab_size) as u32).collect()
            }
        };
        let rows = cast(&table.index_select(&Tensor::new(ids, device)?, 0)?, DType::F32)?;
        // Where the factor is the embedding's own, what it gives has it already.
        Ok(if c.scales_virtual { rows } else { (rows * f64::from(c.embedding_scale))? })
    }

    fn check(&self, c: &DecoderConfig) -> Result<()> {
        let sizes = self.sizes(c);
        if let Start::Values { values, origin } = &self.start
            && values.dims() != [sizes.count, sizes.width]
        {
            return Err(other_shape(origin, TABLE, values.dims(), &[sizes.count, sizes.width]));
        }
        if self.count >= c.context {
            let (count, context) = (self.count, c.context);
            return Err(Problem::new(
                "too_many_virtual_tokens",
                format!("num_virtual_tokens is {count}, but the model has {context} positions in all."),
                format!("num_virtual_tokens 为 {count}，而此模型总共只有 {context} 个位置。"),
            )
            .hint("Use fewer: 10 to 100 are usual.", "请减少：常用 10 到 100。")
            .field("num_virtual_tokens")
            .into());
        }
        Ok(())
    }
}

impl Attach for Soft {
    fn virtual_tokens(
        &self,
        config: &DecoderConfig,
        embedding: &Parameter,
        store: &mut Store,
    ) -> Result<Option<VirtualTokens>> {
        self.check(config)?;
        let parameters = self.parts(config).into_iter().map(|part| {
            let value = self.value(&part, config, embedding)?;
            Ok(store.add(part.name, value))
        });
        let parameters = parameters.collect::<Result<_>>()?;
        let encoder = Arc::clone(&self.encoder);
        let encode = Box::new(move |values: &[Tensor], random| encoder.encode(values, random));
        Ok(Some(VirtualTokens { count: self.count, place: self.place(config), parameters, encode }))
    }
}

impl Tuning for Soft {
    fn tokenize(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        let Start::Text { text, ids } = &mut self.start else { return Ok(()) };
        let encoded = tokenizer.encode(text.as_str(), true).map_err(|e| Error::Internal(e.to_string()))?;
        *ids = encoded.get_ids().to_vec();
        if ids.is_empty() {
            return Err(no_text());
        }
        Ok(())
    }

    fn count(&self, layout: &dyn Layout) -> Result<(u64, Vec<String>)> {
        let config = layout.decoder()?;
        self.check(config)?;
        let values = self.parts(config).iter().map(|part| part.shape.iter().product::<usize>() as u64).sum();
        Ok((values, vec!["virtual_tokens".into()]))
    }

    fn merges(&self) -> Result<()> {
        Err(beside("virtual tokens", "虚拟词元"))
    }

    fn tokens_ahead(&self) -> usize {
        self.count
    }

    /// A PEFT folder; in a checkpoint also the parameters of the encoder.
    fn save(&self, dir: &Path, model: &dyn Network, store: &Store, base: &Base, precision: Precision) -> Result<()> {
        let model = model.decoder()?;
        let tokens = model.virtual_tokens.as_ref().ok_or_else(|| Error::Internal("no virtual tokens".into()))?;
        let mut tensors = BTreeMap::from([(TABLE.to_string(), tokens.values(None)?)]);
        if precision == Precision::Exact {
            tensors.extend(store.trainable().map(|parameter| (parameter.name.clone(), parameter.get())));
        }
        let (c, sizes) = (&model.config, self.sizes(&model.config));
        let mut config = self.encoder.settings(sizes);
        config.extend([
            ("num_virtual_tokens".to_string(), json!(self.count)),
            ("token_dim".into(), json!(sizes.token)),
            ("num_layers".into(), json!(c.layers)),
            ("num_attention_heads".into(), json!(if self.deep { c.kv_heads } else { c.heads })),
            ("num_transformer_submodules".into(), json!(1)),
        ]);
        if let Start::Text { text, .. } = &self.start {
            config.insert("prompt_tuning_init_text".into(), json!(text));
            config.insert("tokenizer_name_or_path".into(), json!(base.name));
        }
        let rows = [("type", self.peft_type.to_string()), ("virtual tokens", self.count.to_string())];
        let card = Card { title: "Virtual tokens", tag: "virtual-tokens", base: base.name, in_peft: true, rows: &rows };
        write_own(dir, self.peft_type, config, &tensors, &card)
    }
}

/// Keys that are written anew.
const COMMON: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "modules_to_save",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
    "token_dim",
];

pub fn no_text() -> Error {
    Problem::new(
        "no_init_text",
        "prompt_tuning_init is TEXT, but prompt_tuning_init_text is empty.",
        "prompt_tuning_init 为 TEXT，但 prompt_tuning_init_text 为空。",
    )
    .hint(
        "Describe the task in a few words, or choose RANDOM or SAMPLE_VOCAB.",
        "请用几个词描述任务，或改用 RANDOM 或 SAMPLE_VOCAB。",
    )
    .field("prompt_tuning_init_text")
    .into()
}

/// A problem if tokens are added, whose embeddings this tuning type would leave untrained and unsaved.
pub fn refuse_new_tokens(config: &RunConfig) -> Result<(), Problems> {
    let model = params::read::<ModelParams>(config).unwrap_or_default();
    let set = [
        ("add_tokens", !model.add_tokens.is_empty()),
        ("add_special_tokens", !model.add_special_tokens.is_empty()),
        ("resize_vocab", model.resize_vocab),
    ];
    let Some((field, _)) = set.into_iter().find(|(_, set)| *set) else { return Ok(()) };
    Err(Problem::new(
        "untrained_tokens",
        format!("{field} is set, but this tuning type trains no embeddings."),
        format!("设置了 {field}，但此训练方式不训练嵌入。"),
    )
    .hint("Choose lora or full, or take it out.", "请选择 lora 或 full，或去掉此项。")
    .field(field)
    .into())
}
