//! The rotary embedding: its settings and its angles, with the scalings of transformers (`modeling_rope_utils.py`,
//! version 5).

use crate::Result;
use api::Problem;
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::f64::consts::TAU;

#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    pub theta: f64,
    /// Values at the beginning of each head that are rotated.
    pub dim: usize,
    /// Neighbours are rotated against each other instead of the two halves.
    pub interleaved: bool,
    pub scaling: RopeScaling,
}

/// Ways to stretch positions, as transformers defines them.
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
    /// Ding et al., 2024: one divisor for each frequency, others beyond `original` positions.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        original: usize,
        attention_factor: f64,
    },
}

/// cos and sin of each token, (tokens, rotated / 2).
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl RopeConfig {
    /// transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
    pub fn read(config: &Value, context: usize, dim: usize) -> Result<Self> {
        let new = &config["rope_parameters"];
        let theta = config["rope_theta"].as_f64().or(new["rope_theta"].as_f64()).unwrap_or(10_000.0);
        let scaling = if new.is_object() { new } else { &config["rope_scaling"] };
        let original = &config["original_max_position_embeddings"];
        let scaling = RopeScaling::read(scaling, original.as_u64().map(|n| n as usize), context, dim)?;
        Ok(Self { theta, dim, interleaved: false, scaling })
    }
}

impl RopeScaling {
    /// `original`: positions before the stretching, where the entry itself doesn't say.
    pub fn read(scaling: &Value, original: Option<usize>, context: usize, dim: usize) -> Result<Self> {
        let float = |key: &str| scaling[key].as_f64();
        let factor = float("factor").unwrap_or(1.0);
        let stated = scaling["original_max_position_embeddings"].as_u64().map(|n| n as usize);
        let original = stated.or(original).unwrap_or(context);
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
            "longrope" | "su" => Self::Long {
                short: divisors(scaling, "short_factor", dim)?,
                long: divisors(scaling, "long_factor", dim)?,
                original,
                attention_factor: float("attention_factor").unwrap_or_else(|| {
                    let factor = float("factor").unwrap_or(context as f64 / original.max(1) as f64);
                    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() }
                }),
            },
            other => {
                return Err(Problem::new(
                    "unknown_rope",
                    format!("config.json: rope_scaling {other:?} is not known; known are {KNOWN}."),
                    format!("config.json：不认识 rope_scaling {other:?}；支持 {KNOWN}。"),
                )
                .hint("Choose a model without it.", "请选择不使用它的模型。")
                .into());
            }
        })
    }
}

impl RopeTable {
    /// `sequences`: for each packed sequence, the position of its first token and one past its last.
    pub fn new(rope: &RopeConfig, sequences: &[(usize, usize)], device: &Device) -> Result<Self> {
        let (dim, mut cos, mut sin) = (rope.dim, Vec::new(), Vec::new());
        for &(start, end) in sequences {
            let (frequencies, scale) = frequencies(rope, end);
            for position in start..end {
                for f in &frequencies {
                    // As transformers: the angle is a float32 product.
                    let angle = position as f32 * *f as f32;
                    cos.push(angle.cos() * scale as f32);
                    sin.push(angle.sin() * scale as f32);
                }
            }
        }
        let rows = cos.len() / (dim / 2);
        let tensor = |v| Tensor::from_vec(v, (rows, dim / 2), device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)? })
    }
}

/// Inverse frequencies (dim / 2) and the factor on cos and sin, for a sequence of `length` positions.
fn frequencies(rope: &RopeConfig, length: usize) -> (Vec<f64>, f64) {
    let dim = rope.dim;
    let base = |theta: f64| -> Vec<f64> { (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect() };
    match rope.scaling {
        RopeScaling::Long { ref short, ref long, original, attention_factor } => {
            let divisors = if length > original { long } else { short };
            (base(rope.theta).into_iter().zip(divisors).map(|(f, d)| f / d).collect(), attention_factor)
        }
        RopeScaling::None => (base(rope.theta), 1.0),
        RopeScaling::Linear { factor } => (base(rope.theta).into_iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Dynamic { factor, original } => {
            let length = length.max(original) as f64;
            let stretch = factor * length / original as f64 - (factor - 1.0);
            (base(rope.theta * stretch.powf(dim as f64 / (dim as f64 - 2.0))), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        } => {
            // The dimension at which a full position turns `rotations` times.
            let turning =
                |rotations: f64| dim as f64 * (original as f64 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln());
            let (mut low, mut high) = (turning(beta_fast), turning(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let mixed = base(rope.theta).into_iter().enumerate().map(|(i, f)| {
                let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * stretched + f * (1.0 - stretched)
            });
            let magnitude = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
            let scale = attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
                (Some(m), Some(all)) if m != 0.0 && all != 0.0 => magnitude(m) / magnitude(all),
                _ => magnitude(1.0),
            });
            (mixed.collect(), scale)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let original = original as f64;
            let scaled = base(rope.theta).into_iter().map(|f| {
                let wavelength = TAU / f;
                if wavelength < original / high_freq_factor {
                    f
                } else if wavelength > original / low_freq_factor {
                    f / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            });
            (scaled.collect(), 1.0)
        }
    }
}

const KNOWN: &str = "linear, dynamic, yarn, llama3, longrope";

/// One divisor for each frequency.
fn divisors(scaling: &Value, key: &str, dim: usize) -> Result<Vec<f64>> {
    let values: Option<Vec<f64>> = scaling[key].as_array().map(|a| a.iter().filter_map(Value::as_f64).collect());
    let (found, wanted) = (values.as_ref().map_or(0, Vec::len), dim / 2);
    values.filter(|v| v.len() == wanted && v.iter().all(|d| *d > 0.0)).ok_or_else(|| {
        Problem::new(
            "bad_model_config",
            format!("config.json: rope_scaling has {found} values of {key}, {wanted} positive ones are needed."),
            format!("config.json：rope_scaling 的 {key} 有 {found} 个值，需要 {wanted} 个正数。"),
        )
        .hint("The model folder is damaged; get it again.", "模型文件夹已损坏，请重新获取。")
        .into()
    })
}
