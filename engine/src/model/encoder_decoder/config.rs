//! T5's numbers (Raffel et al., 2020) and those of mT5 (Xue et al., 2021), from a config.json of transformers.

use super::layout::HEAD;
use crate::{
    Result,
    files::ModelFiles,
    kernels::activation::Activation,
    model::config::{not_supported, number},
};
use api::{Card, Problem, Text};
use serde_json::{Value, json};

/// `architectures` of the config.json files of such models.
pub const ARCHITECTURES: [&str; 2] = ["T5ForConditionalGeneration", "MT5ForConditionalGeneration"];

/// The families of such models.
pub fn cards() -> [Card; 2] {
    let card = |name: &str, title: &str, help: [&str; 2]| Card {
        name: name.into(),
        title: Text::new(title, title),
        help: Text::new(help[0], help[1]),
        schema: json!({}),
    };
    [
        card("t5", "T5", ["T5 and Flan-T5: an encoder and a decoder", "T5 与 Flan-T5：编码器加解码器"]),
        card("mt5", "mT5", ["mT5 and mt0: T5 in a hundred languages", "mT5 与 mt0：支持百种语言的 T5"]),
    ]
}

#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Width of a head, which heads · width need not make the hidden size.
    pub head_dim: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    /// Relative positions share this many biases; those from `max_distance` on share the last.
    pub buckets: usize,
    pub max_distance: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    pub gated: bool,
    /// Factor of what the head reads.
    pub head_scale: f32,
    /// The head is the embedding.
    pub tied: bool,
    /// Factor of a random model's deviations.
    pub initializer_factor: f64,
    /// The token that a target begins behind, and those that end it.
    pub start: u32,
    pub eos: Vec<u32>,
}

impl EncoderDecoderConfig {
    /// Whether a config.json is one of these.
    pub fn is_one(config: &Value) -> bool {
        matches!(config["model_type"].as_str(), Some("t5" | "mt5"))
    }

    /// As [`read`](Self::read), for a folder with weights: these tell whether there is a head besides the embedding, since
    /// transformers 5 ties them whatever the flag says where there is none.
    pub fn of(files: &ModelFiles, config: &Value) -> Result<Self> {
        let read = Self::read(config)?;
        let embedding_alone = files.names().next().is_some() && !files.contains(&format!("{HEAD}.weight"));
        Ok(Self { tied: read.tied || embedding_alone, ..read })
    }

    pub fn read(config: &Value) -> Result<Self> {
        if !Self::is_one(config) {
            return Err(not_supported("model_type", &config["model_type"]));
        }
        let mt5 = config["model_type"] == "mt5";
        let most =
            |most: usize| move |key: &str, default| number(config, key, default).and_then(|n| positive(key, n, most));
        let (size, count) = (most(1 << 20), most(1 << 12));
        let (hidden_size, encoder_layers) = (size("d_model", None)?, count("num_layers", None)?);
        let projection = config["feed_forward_proj"].as_str().unwrap_or(if mt5 { "gated-gelu" } else { "relu" });
        let (gated, activation) = match projection {
            "relu" => (false, Activation::Relu),
            "gated-relu" => (true, Activation::Relu),
            // As transformers: by tanh.
            "gated-gelu" | "gated-gelu_new" => (true, Activation::GeluTanh),
            "gated-silu" => (true, Activation::Silu),
            _ => return Err(not_supported("feed_forward_proj", &config["feed_forward_proj"])),
        };
        // The first T5 was trained so, and says so by this flag, wherever its head stands.
        let tied = config["tie_word_embeddings"].as_bool().unwrap_or(!mt5);
        let id = |key: &str| config[key].as_u64().map(|id| id as u32);
        let eos = match &config["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            _ => vec![id("eos_token_id").unwrap_or(1)],
        };
        let buckets = count("relative_attention_num_buckets", Some(32))?;
        if buckets < 4 {
            return Err(not_supported("relative_attention_num_buckets", &config["relative_attention_num_buckets"]));
        }
        Ok(Self {
            vocab_size: most(1 << 24)("vocab_size", None)?,
            hidden_size,
            head_dim: count("d_kv", Some(64))?,
            heads: count("num_heads", None)?,
            intermediate_size: size("d_ff", None)?,
            encoder_layers,
            decoder_layers: count("num_decoder_layers", Some(encoder_layers))?,
            buckets,
            max_distance: size("relative_attention_max_distance", Some(128))?.max(buckets),
            norm_eps: config["layer_norm_epsilon"].as_f64().unwrap_or(1e-6) as f32,
            activation,
            gated,
            head_scale: if tied && !mt5 { 1.0 / (hidden_size as f32).sqrt() } else { 1.0 },
            tied,
            initializer_factor: config["initializer_factor"].as_f64().unwrap_or(1.0),
            start: id("decoder_start_token_id").or(id("pad_token_id")).unwrap_or(0),
            eos,
        })
    }
}

fn positive(key: &str, value: usize, most: usize) -> Result<usize> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(Problem::new(
        "bad_model_config",
        format!("config.json: {key} is {value}, must be 1 to {most}."),
        format!("config.json：{key} 为 {value}，应在 1 到 {most} 之间。"),
    )
    .hint("The model folder is damaged; get it again.", "模型文件夹已损坏，请重新获取。")
    .field("model_name_or_path")
    .into())
}
