//! The shape of a decoder, read from a Hugging Face `config.json`.

use crate::Result;
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
    pub norm_eps: f64,
    pub rope: RopeConfig,
    /// Positions that the model was trained on.
    pub context: usize,
    pub tie_embeddings: bool,
    /// Biases of q, k and v; of the attention's output; of the MLP.
    pub qkv_bias: bool,
    pub out_bias: bool,
    pub mlp_bias: bool,
    /// RMS norms on each head of q and k.
    pub qk_norm: bool,
    /// Keys that a query sees, for each layer.
    pub windows: Vec<Option<usize>>,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// Ways to stretch positions, as transformers defines them (`modeling_rope_utils.py`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    /// NTK-aware, by the length of the sequence.
    Dynamic {
        factor: f64,
        original: usize,
    },
    /// Peng et al., 2023.
    Yarn {
        factor: f64,
        original: usize,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: Option<f64>,
        mscale: Option<f64>,
        mscale_all_dim: Option<f64>,
        truncate: bool,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original: usize,
    },
}

impl DecoderConfig {
    /// What all families share; a family sets its own flags afterwards.
    pub fn read(config: &Value) -> Result<Self> {
        let hidden_size = number(config, "hidden_size", None)?;
        let heads = number(config, "num_attention_heads", None)?;
        let layers = number(config, "num_hidden_layers", None)?;
        let context = number(config, "max_position_embeddings", Some(2048))?;
        let read = Self {
            vocab_size: number(config, "vocab_size", None)?,
            hidden_size,
            intermediate_size: number(config, "intermediate_size", None)?,
            layers,
            heads,
            kv_heads: number(config, "num_key_value_heads", Some(heads))?,
            head_dim: number(config, "head_dim", Some(hidden_size / heads.max(1)))?,
            norm_eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope: RopeConfig::read(config, context)?,
            context,
            tie_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(false),
            qkv_bias: config["attention_bias"].as_bool().unwrap_or(false),
            out_bias: config["attention_bias"].as_bool().unwrap_or(false),
            mlp_bias: config["mlp_bias"].as_bool().unwrap_or(false),
            qk_norm: false,
            windows: vec![None; layers],
            initializer_range: config["initializer_range"].as_f64().unwrap_or(0.02),
        };
        read.check()
    }

    /// The window of each layer: `layer_types` says which layers have one, otherwise all from `from` on.
    pub fn set_windows(&mut self, config: &Value, from: usize) {
        let Some(window) = config["sliding_window"].as_u64().map(|w| w as usize) else { return };
        let types = config["layer_types"].as_array();
        self.windows = (0..self.layers)
            .map(|i| match types {
                Some(types) => types.get(i).and_then(Value::as_str) == Some("sliding_attention"),
                None => i >= from,
            })
            .map(|slides| slides.then_some(window.max(1)))
            .collect();
    }

    /// Parameters of the whole model.
    pub fn parameters(&self) -> u64 {
        let (h, d) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.heads * d, self.kv_heads * d);
        let bias = |on: bool, n: usize| if on { n } else { 0 };
        let attention = 2 * h * q + 2 * h * kv + bias(self.qkv_bias, q + 2 * kv) + bias(self.out_bias, h);
        let mlp = 3 * h * self.intermediate_size + bias(self.mlp_bias, 2 * self.intermediate_size + h);
        let layer = attention + mlp + 2 * h + bias(self.qk_norm, 2 * d);
        let embeddings = self.vocab_size * h * if self.tie_embeddings { 1 } else { 2 };
        (self.layers * layer + embeddings + h) as u64
    }

    fn check(self) -> Result<Self> {
        let bad = |key: &str, value: usize, en: String, zh: String| {
            let problem = Problem::new(
                "bad_model_config",
                format!("config.json: {key} is {value}, {en}."),
                format!("config.json：{key} 为 {value}，{zh}。"),
            );
            Err(problem.hint("The model folder is damaged; get it again.", "模型文件夹已损坏，请重新获取。").into())
        };
        for (key, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.layers, 1 << 10),
            ("num_attention_heads", self.heads, 1 << 12),
            ("num_key_value_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
        ] {
            if value == 0 || value > most {
                return bad(key, value, format!("must be 1 to {most}"), format!("应在 1 到 {most} 之间"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let heads = self.heads;
            return bad(
                "num_key_value_heads",
                self.kv_heads,
                format!("must divide num_attention_heads ({heads})"),
                format!("应整除 num_attention_heads（{heads}）"),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", self.head_dim, "must be even".into(), "应为偶数".into());
        }
        Ok(self)
    }
}

impl RopeConfig {
    /// transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
    fn read(config: &Value, context: usize) -> Result<Self> {
        let new = &config["rope_parameters"];
        let theta = config["rope_theta"].as_f64().or(new["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let scaling = if new.is_object() { new } else { &config["rope_scaling"] };
        Ok(Self { theta, scaling: RopeScaling::read(scaling, context)? })
    }
}

impl RopeScaling {
    fn read(scaling: &Value, context: usize) -> Result<Self> {
        let float = |key: &str| scaling[key].as_f64();
        let factor = float("factor").unwrap_or(1.0);
        let original = scaling["original_max_position_embeddings"].as_u64().map_or(context, |n| n as usize);
        let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
        Ok(match kind {
            "default" => Self::None,
            "linear" => Self::Linear { factor },
            // transformers takes the context itself here, whatever else the entry says.
            "dynamic" => Self::Dynamic { factor, original: context },
            "yarn" => Self::Yarn {
                factor,
                original,
                beta_fast: float("beta_fast").unwrap_or(32.0),
                beta_slow: float("beta_slow").unwrap_or(1.0),
                attention_factor: float("attention_factor"),
                mscale: float("mscale"),
                mscale_all_dim: float("mscale_all_dim"),
                truncate: scaling["truncate"].as_bool().unwrap_or(true),
            },
            "llama3" => Self::Llama3 {
                factor,
                low_freq_factor: float("low_freq_factor").unwrap_or(1.0),
                high_freq_factor: float("high_freq_factor").unwrap_or(4.0),
                original,
            },
            other => {
                return Err(Problem::new(
                    "unknown_rope",
                    format!(
                        "config.json: rope_scaling {other:?} is not known; known are linear, dynamic, yarn, llama3."
                    ),
                    format!("config.json：不认识 rope_scaling {other:?}；支持 linear、dynamic、yarn、llama3。"),
                )
                .hint("Choose a model without it.", "请选择不使用它的模型。")
                .into());
            }
        })
    }
}

fn number(config: &Value, key: &str, default: Option<usize>) -> Result<usize> {
    config[key].as_u64().map(|n| n as usize).or(default).ok_or_else(|| {
        Problem::new("bad_model_config", format!("config.json has no {key}."), format!("config.json 中没有 {key}。"))
            .hint(
                "The model folder is damaged or of another kind; get it again.",
                "模型文件夹已损坏或类型不符，请重新获取。",
            )
            .into()
    })
}
