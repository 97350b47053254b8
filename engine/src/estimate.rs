//! Memory and time of a run before it begins. The formulas count what the blocks keep; the speed is measured.

use crate::{
    kernels::matmul,
    model::config::{DecoderConfig, QkNorm},
};
use api::{Text, params::TrainParams, plan::Part};
use candle_core::{Device, Tensor};
use std::time::Instant;

/// What the estimate of a run depends on.
pub struct Load {
    pub parameters: u64,
    pub trainable: u64,
    pub full: bool,
    /// Samples, those held back too.
    pub samples: u64,
    /// Tokens of the largest micro-batch, and of all steps.
    pub batch_tokens: u64,
    pub total_tokens: u64,
    /// Share of the tokens that are predicted.
    pub trained_share: f64,
}

/// Peak memory by part, in bytes.
pub fn memory(c: &DecoderConfig, params: &TrainParams, load: &Load) -> Vec<Part> {
    let part = |en: &str, zh: &str, bytes: u64| Part { name: Text::new(en, zh), bytes };
    let (h, q, kv) = (c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let f = c.experts.as_ref().map_or(c.intermediate_size, |e| e.active * e.intermediate_size);
    // Kept by a layer for each token: two norms' input and output, q, k, v, the attention's output, gate and up; with
    // norms on heads also q and k before them.
    let kept = 4 * h + 2 * q + 2 * kv + 2 * f + if c.qk_norm == QkNorm::None { 0 } else { q + kv };
    let layers = if params.gradient_checkpointing { c.layers * h + kept } else { c.layers * kept };
    // Gradients on their way down a layer.
    let passing = 2 * h + 2 * q + 2 * kv + 3 * f;
    let activations = load.batch_tokens * (layers + passing) as u64 * 4;
    let predicted = (load.batch_tokens as f64 * load.trained_share) as u64;
    let chunk = predicted.min(256) * c.vocab_size as u64 * 4;
    let head = chunk + 2 * predicted * h as u64 * 4;
    vec![
        part("weights", "权重", load.parameters * 4 + if load.full { 0 } else { load.trainable * 4 }),
        part("gradients and optimizer", "梯度与优化器", load.trainable * 16),
        part("activations", "激活", activations),
        part("head", "输出层", head),
        part("program and data", "程序与数据", 60_000_000 + load.samples * 20),
    ]
}

/// Seconds of all steps, at the float32 speed of this machine, and what that rests on.
pub fn seconds(c: &DecoderConfig, params: &TrainParams, load: &Load) -> (f64, Text) {
    let embeddings = (c.vocab_size * c.hidden_size) as f64;
    let linears = c.active_parameters() as f64 - embeddings * if c.tie_embeddings { 1.0 } else { 2.0 };
    // Forward, backward to the inputs, and to the weights where all are trained; forward again with recompute.
    let passes = 2.0 + f64::from(u8::from(load.full)) + f64::from(u8::from(params.gradient_checkpointing));
    let per_token = 2.0 * linears * passes + 2.0 * embeddings * load.trained_share * passes;
    let speed = flops();
    // Everything that is no matrix product takes about as long as a third of them.
    let seconds = load.total_tokens as f64 * per_token / speed * 1.35;
    let giga = (speed / 1e9).round();
    let basis = Text::new(
        format!("from a matrix product measured just now ({giga} GFLOP/s in float32)"),
        format!("依据刚才测得的矩阵乘法速度（float32，{giga} GFLOP/s）"),
    );
    (seconds, basis)
}

/// Float32 operations a second of a product the size of a small layer; takes a few milliseconds.
fn flops() -> f64 {
    let n = 512;
    let Ok(a) = Tensor::ones((n, n), candle_core::DType::F32, &Device::Cpu) else { return 1e10 };
    let mut best = f64::MAX;
    for _ in 0..4 {
        let begun = Instant::now();
        if matmul::linear(&a, &a, candle_core::DType::F32, candle_core::DType::F32).is_err() {
            return 1e10;
        }
        best = best.min(begun.elapsed().as_secs_f64());
    }
    2.0 * (n as f64).powi(3) / best.max(1e-9)
}
