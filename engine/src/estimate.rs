//! Memory and time of a run before it begins. The formulas count what the blocks keep; the speed is measured.

use crate::{
    data::Samples,
    kernels::matmul,
    memory,
    model::config::{DecoderConfig, QkNorm},
    stages::Sampled,
};
use api::{Text, plan::Part};
use candle_core::{DType, Device, Tensor};
use std::time::Instant;

/// What the estimate of a run depends on.
#[derive(Clone, Copy, Debug)]
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
    /// What products are computed in, and whether activations are computed again.
    pub compute: DType,
    pub recompute: bool,
    /// Values of the base that are quantised, and their bytes.
    pub quantised: Option<(u64, u64)>,
    /// Bytes of the optimizer's state.
    pub state: u64,
}

impl Load {
    /// Of a stage that learns from what the model says: micro-batches hold prompts with their answers, and each answer goes
    /// through the model to be made, to be judged, and each time that it is learned from.
    pub fn sample(&mut self, sampled: &Sampled, samples: &Samples, batch: usize, steps: u64) {
        let prompts = || (0..samples.len()).map(|i| samples.prompt(i) as u64);
        let longest = prompts().max().unwrap_or(0) + sampled.tokens as u64;
        let tokens: u64 = prompts().sum();
        let mean = tokens / samples.len().max(1) as u64 + sampled.tokens as u64;
        self.batch_tokens = longest * batch as u64;
        // Forward alone is a third of learning.
        let passes = sampled.times as f64 + 2.0 / 3.0;
        self.total_tokens = ((steps * mean * (sampled.prompts * sampled.answers) as u64) as f64 * passes) as u64;
        self.trained_share = sampled.tokens as f64 / mean.max(1) as f64;
    }
}

/// Peak memory by part, in bytes.
pub fn by_part(c: &DecoderConfig, load: &Load) -> Vec<Part> {
    let part = |en: &str, zh: &str, bytes: u64| Part { name: Text::new(en, zh), bytes };
    let (h, q, kv) = (c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let f = c.experts.as_ref().map_or(c.intermediate_size, |e| e.active * e.intermediate_size);
    let size = load.compute.size_in_bytes();
    // Kept by a layer for each token: two norms' input, in float32, and output, q, k, v, the attention's output, gate
    // and up; with norms on heads also q and k before them.
    let heads = if c.qk_norm == QkNorm::None { 0 } else { q + kv };
    let kept = 2 * h * 4 + (2 * h + 2 * q + 2 * kv + 2 * f + heads) * size;
    let layers = if load.recompute { c.layers * h * 4 + kept } else { c.layers * kept };
    // Gradients on their way down a layer.
    let passing = 2 * h * 4 + (2 * q + 2 * kv + 3 * f) * size;
    let predicted = (load.batch_tokens as f64 * load.trained_share) as u64;
    // Logits of a chunk in float32, and packed as the factor of their way back.
    let chunk = predicted.min(256) * (c.vocab_size * (4 + size)) as u64;
    let (quantised, bytes) = load.quantised.unwrap_or_default();
    let weights = match load.full {
        true => load.parameters * 4,
        false => (load.parameters - quantised.min(load.parameters)) * size as u64 + bytes + load.trainable * 4,
    };
    vec![
        part("weights", "权重", weights),
        part("gradients and optimizer", "梯度与优化器", load.trainable * 8 + load.state),
        part("activations", "激活", load.batch_tokens * (layers + passing) as u64),
        part("head", "输出层", chunk + 2 * predicted * h as u64 * 4),
        part("program and data", "程序与数据", 60_000_000 + load.samples * 20),
    ]
}

/// Whether a run has to compute activations again to fit into the memory that is free: bytes needed without, and free.
pub fn too_large(c: &DecoderConfig, load: &Load) -> Option<(u64, u64)> {
    let needed = by_part(c, &Load { recompute: false, ..*load }).iter().map(|part| part.bytes).sum();
    memory::free().filter(|free| needed > *free).map(|free| (needed, free))
}

/// Seconds of all steps, at the speed of this machine, and what that rests on.
pub fn seconds(c: &DecoderConfig, load: &Load) -> (f64, Text) {
    let embeddings = (c.vocab_size * c.hidden_size) as f64;
    let linears = c.active_parameters() as f64 - embeddings * if c.tie_embeddings { 1.0 } else { 2.0 };
    // Forward, backward to the inputs, and to the weights where all are trained; forward again with recompute.
    let passes = 2.0 + f64::from(u8::from(load.full)) + f64::from(u8::from(load.recompute));
    let per_token = 2.0 * linears * passes + 2.0 * embeddings * load.trained_share * passes;
    let speed = flops(load.compute);
    // Everything that is no matrix product takes about as long as a third of them.
    let seconds = load.total_tokens as f64 * per_token / speed * 1.35;
    let (giga, name) = ((speed / 1e9).round(), if load.compute == DType::BF16 { "bf16" } else { "float32" });
    let basis = Text::new(
        format!("from a matrix product measured just now ({giga} GFLOP/s in {name})"),
        format!("依据刚才测得的矩阵乘法速度（{name}，{giga} GFLOP/s）"),
    );
    (seconds, basis)
}

/// Operations a second of a product the size of a small layer; takes a few milliseconds.
fn flops(compute: DType) -> f64 {
    let n = 512;
    let Ok(a) = Tensor::ones((n, n), DType::F32, &Device::Cpu) else { return 1e10 };
    let mut best = f64::MAX;
    for _ in 0..4 {
        let begun = Instant::now();
        if matmul::linear(&a, &a, compute, compute).is_err() {
            return 1e10;
        }
        best = best.min(begun.elapsed().as_secs_f64());
    }
    2.0 * (n as f64).powi(3) / best.max(1e-9)
}
