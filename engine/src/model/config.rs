//! The shape of a decoder, read from a Hugging Face `config.json`.

use super::{
    names::{LLAMA, MlpNames, Names},
    rope::RopeConfig,
};
use crate::{Result, kernels::activation::Activation};
use api::Problem;
use serde_json::Value;

/// Everything that makes one decoder differ from another.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub norm: NormKind,
    pub norm_eps: f64,
    /// Rotary embedding; without it positions are learned.
    pub rope: Option<RopeConfig>,
    /// That of the layers with a window, where it is another.
    pub window_rope: Option<RopeConfig>,
    /// Positions that the model was trained on.
    pub context: usize,
    pub tie_embeddings: bool,
    /// Biases of q, k and v; of the attention's output; of the MLP.
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: QkNorm,
    pub activation: Activation,
    /// Scores are multiplied by it, usually `1 / sqrt(head_dim)`.
    pub attention_scale: f32,
    /// `cap · tanh(x / cap)` on scores and on logits (Gemma 2).
    pub attention_softcap: Option<f32>,
    pub logit_softcap: Option<f32>,
    /// Factors of the embedding, of what each branch adds to the residual, and of the logits.
    pub embedding_scale: f32,
    /// The embedding's factor is on virtual tokens, too.
    pub scales_virtual: bool,
    pub residual_scale: f32,
    pub logit_scale: f32,
    /// Attention and MLP read the same x.
    pub parallel: bool,
    /// Weights of linears are stored as (in, out).
    pub transposed: bool,
    /// Keys that a query sees, for each layer.
    pub windows: Vec<Option<usize>>,
    pub experts: Option<ExpertsConfig>,
    pub names: Names,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    Rms,
    /// RMS norm whose weight is stored less one.
    RmsPlusOne,
    /// With mean and bias.
    Layer,
}

/// RMS norms of q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// On each head.
    Heads,
    /// On all heads together.
    Width,
}

/// A mixture of experts in the MLP's place (Shazeer et al., 2017).
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    pub count: usize,
    /// Experts of a token.
    pub active: usize,
    pub intermediate_size: usize,
    /// The weights of a token's experts are made to sum to 1.
    pub normalised: bool,
    /// Which layers have experts; the others have a dense MLP.
    pub layers: Vec<bool>,
    pub router: &'static str,
    /// The experts; a dot and the number follow.
    pub name: &'static str,
    pub names: MlpNames,
}

impl DecoderConfig {
    /// What all families share, as Llama has it; a family sets its own flags afterwards.
    pub fn read(config: &Value) -> Result<Self> {
        Self::read_rotating(config, 1.0)
    }

    /// As [`DecoderConfig::read`] with `share` of each head rotated by the rotary embedding.
    pub fn read_rotating(config: &Value, share: f64) -> Result<Self> {
        let hidden_size = number(config, "hidden_size", None)?;
        let heads = number(config, "num_attention_heads", None)?;
        let layers = number(config, "num_hidden_layers", None)?;
        let context = number(config, "max_position_embeddings", Some(2048))?;
        let head_dim = number(config, "head_dim", Some(hidden_size / heads.max(1)))?;
        let rotated = (head_dim as f64 * share) as usize;
        let read = Self {
            vocab_size: number(config, "vocab_size", None)?,
            hidden_size,
            intermediate_size: number(config, "intermediate_size", None)?,
            layers,
            heads,
            kv_heads: number(config, "num_key_value_heads", Some(heads))?,
            head_dim,
            norm: NormKind::Rms,
            norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope: Some(RopeConfig::read(config, context, rotated)?),
            window_rope: None,
            context,
            tie_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
            qkv_bias: config["attention_bias"].as_bool().unwrap_or(false),
            out_bias: config["attention_bias"].as_bool().unwrap_or(false),
            mlp_bias: config["mlp_bias"].as_bool().unwrap_or(false),
            qk_norm: QkNorm::None,
            activation: activation(config["hidden_act"].as_str().unwrap_or("silu"))?,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            attention_softcap: None,
            logit_softcap: None,
            embedding_scale: 1.0,
            scales_virtual: false,
            residual_scale: 1.0,
            logit_scale: 1.0,
            parallel: false,
            transposed: false,
            windows: vec![None; layers],
            experts: None,
            names: LLAMA,
            initializer_range: config["initializer_range"].as_f64().unwrap_or(0.02),
        };
        read.check()
    }

    /// The window of each layer: `layer_types` says which layers have one, otherwise `slides` of the layer's number.
    pub fn set_windows(&mut self, config: &Value, slides: impl Fn(usize) -> bool) {
        let Some(window) = config["sliding_window"].as_u64().map(|w| w as usize) else { return };
        let types = config["layer_types"].as_array();
        self.windows = (0..self.layers)
            .map(|i| match types {
                Some(types) => types.get(i).and_then(Value::as_str) == Some("sliding_attention"),
                None => slides(i),
            })
            .map(|slides| slides.then_some(window.max(1)))
            .collect();
    }

    /// A problem if a sequence behind some virtual tokens is longer than the positions that the model has learned;
    /// rotary ones have no end.
    pub fn check_length(&self, length: usize, virtual_tokens: usize) -> Result<()> {
        let context = self.context.saturating_sub(virtual_tokens);
        if self.names.positions.is_none() || length <= context {
            return Ok(());
        }
        Err(Problem::new(
            "too_long",
            format!("A sequence has {length} tokens, this model has learned {context} positions for them."),
            format!("序列有 {length} 个 token，而此模型只学过 {context} 个可用位置。"),
        )
        .hint(format!("Set cutoff_len to {context} or less."), format!("请将 cutoff_len 设为不超过 {context}。"))
        .field("cutoff_len")
        .into())
    }

    fn check(self) -> Result<Self> {
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.layers, 1 << 10),
            ("num_attention_heads", self.heads, 1 << 12),
            ("num_key_value_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.context, 1 << 28),
        ] {
            in_range(key, value, most)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let heads = self.heads;
            return Err(bad(
                "num_key_value_heads",
                self.kv_heads,
                &format!("must divide num_attention_heads ({heads})"),
                &format!("应整除 num_attention_heads（{heads}）"),
            ));
        }
        if let Some(rope) = &self.rope
            && (rope.dim == 0 || rope.dim > self.head_dim || !rope.dim.is_multiple_of(2))
        {
            // The rotated part of a head.
            return Err(bad("head_dim", rope.dim, "must be even", "应为偶数"));
        }
        Ok(self)
    }
}

impl ExpertsConfig {
    /// Refuses numbers that make no mixture.
    pub fn check(self) -> Result<Self> {
        in_range("num_experts", self.count, 1 << 12)?;
        in_range("num_experts_per_tok", self.active, self.count)?;
        in_range("moe_intermediate_size", self.intermediate_size, 1 << 20)?;
        Ok(self)
    }
}

/// A number of the configuration, or `default` where it is absent or null.
pub fn number(config: &Value, key: &str, default: Option<usize>) -> Result<usize> {
    config[key].as_u64().map(|n| n as usize).or(default).ok_or_else(|| {
        Problem::new("bad_model_config", format!("config.json has no {key}."), format!("config.json 中没有 {key}。"))
            .hint(
                "The model folder is damaged or of another kind; get it again.",
                "模型文件夹已损坏或类型不符，请重新获取。",
            )
            .into()
    })
}

/// A factor of the configuration, 1 where it is absent.
pub fn factor(config: &Value, key: &str) -> f32 {
    config[key].as_f64().unwrap_or(1.0) as f32
}

/// The configuration with `defaults` for its absent keys and nulls.
pub fn with_defaults(config: &Value, defaults: Value) -> Value {
    let mut config = config.clone();
    if let (Some(map), Value::Object(defaults)) = (config.as_object_mut(), defaults) {
        for (key, value) in defaults {
            let entry = map.entry(key).or_insert(Value::Null);
            if entry.is_null() {
                *entry = value;
            }
        }
    }
    config
}

/// The share of a head that the rotary embedding turns.
pub fn rotary_share(config: &Value, default: f64) -> f64 {
    let key = "partial_rotary_factor";
    config[key].as_f64().or(config["rope_parameters"][key].as_f64()).unwrap_or(default).clamp(0.0, 1.0)
}

/// Problem of a setting that the family knows in one form only.
pub fn not_supported(key: &str, value: &Value) -> crate::Error {
    Problem::new(
        "model_variant",
        format!("config.json: {key} {value} is not supported."),
        format!("config.json：不支持 {key} {value}。"),
    )
    .hint("Choose another model of this family.", "请选择该系列的其他模型。")
    .field("model_name_or_path")
    .into()
}

fn activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        other => return Err(not_supported("hidden_act", &Value::from(other))),
    })
}

fn in_range(key: &str, value: usize, most: usize) -> Result<()> {
    if value == 0 || value > most {
        return Err(bad(key, value, &format!("must be 1 to {most}"), &format!("应在 1 到 {most} 之间")));
    }
    Ok(())
}

fn bad(key: &str, value: usize, en: &str, zh: &str) -> crate::Error {
    Problem::new(
        "bad_model_config",
        format!("config.json: {key} is {value}, {en}."),
        format!("config.json：{key} 为 {value}，{zh}。"),
    )
    .hint("The model folder is damaged; get it again.", "模型文件夹已损坏，请重新获取。")
    .into()
}
