//! Angles of the rotary embedding, with the scalings of transformers (`modeling_rope_utils.py`, version 5).

use super::config::{RopeConfig, RopeScaling};
use crate::Result;
use candle_core::{Device, Tensor};
use std::f64::consts::TAU;

/// cos and sin of each token, (tokens, head_dim / 2).
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl RopeTable {
    /// `sequences`: for each packed sequence, the position of its first token and one past its last.
    pub fn new(rope: &RopeConfig, dim: usize, sequences: &[(usize, usize)], device: &Device) -> Result<Self> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &(start, end) in sequences {
            let (frequencies, scale) = frequencies(rope, dim, end);
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
fn frequencies(rope: &RopeConfig, dim: usize, length: usize) -> (Vec<f64>, f64) {
    let base = |theta: f64| -> Vec<f64> { (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64)).collect() };
    match rope.scaling {
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
