//! Memory and time of a run before it begins. The formulas count what the blocks keep; the speed is measured.

pub mod fit;
pub mod measure;

use crate::{
    base,
    data::Samples,
    generate::TOGETHER,
    kernels::matmul,
    memory,
    model::{
        Cache, DecoderConfig, LinearLayout, ModelConfig,
        config::QkNorm,
        encoder_decoder::{EncoderDecoderConfig, layout::Stack},
    },
    stages::Sampled,
};
use api::{Text, plan::Part};
use candle_core::{DType, Device, Tensor};
use std::time::Instant;

/// What a token costs that is only validated, as a share of one that is learned from.
pub const FORWARD: f64 = 0.4;
/// Bytes of the program with its tokenizer, and what the allocator comes to hold on to.
const PROGRAM: u64 = 115_000_000;
/// Bytes a second that are written to the disk, flushed, and read back for their hashes.
const WRITTEN: f64 = 4e8;

/// Seconds in which so many bytes are saved.
pub fn saving(bytes: u64) -> f64 {
    bytes as f64 / WRITTEN
}

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
    /// Answers that are sampled together, and positions of the cache for all of them; 0 where none are.
    pub sampled: (u64, u64),
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
        let together = (sampled.prompts * sampled.answers).min(TOGETHER.max(sampled.answers));
        self.sampled = (together as u64, Cache::room(together, longest as usize) as u64);
        // Forward alone is a third of learning.
        let passes = sampled.times as f64 + 2.0 / 3.0;
        self.total_tokens = ((steps * mean * (sampled.prompts * sampled.answers) as u64) as f64 * passes) as u64;
        self.trained_share = sampled.tokens as f64 / mean.max(1) as f64;
    }
}

/// What a token costs while a model learns.
struct Cost {
    hidden: usize,
    vocab: usize,
    /// Bytes that the layers keep for it, and that are on their way down one layer.
    kept: f64,
    passing: f64,
    /// Values of the linears that it meets.
    linears: f64,
    /// Bytes of its keys and values in a cache.
    cached: usize,
}

fn cost(c: &ModelConfig, load: &Load) -> Cost {
    match c {
        ModelConfig::Decoder(c) => decoder(c, load),
        ModelConfig::EncoderDecoder(c) => encoder_decoder(c, load),
    }
}

fn decoder(c: &DecoderConfig, load: &Load) -> Cost {
    let (h, q, kv) = (c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let f = c.experts.as_ref().map_or(c.intermediate_size, |e| e.active * e.intermediate_size);
    let size = load.compute.size_in_bytes();
    // Kept by a layer for each token: two norms' input and output, q, k, v, the attention's output, gate and up; with
    // norms on heads also q and k before them.
    let heads = if c.qk_norm == QkNorm::None { 0 } else { q + kv };
    let kept = (4 * h + 2 * q + 2 * kv + 2 * f + heads) * size;
    let embeddings = (c.vocab_size * h) as f64 * if c.tie_embeddings { 1.0 } else { 2.0 };
    Cost {
        hidden: h,
        vocab: c.vocab_size,
        kept: (if load.recompute { c.layers * h * 4 + kept } else { c.layers * kept }) as f64,
        passing: (2 * h * 4 + (2 * q + 2 * kv + 3 * f) * size) as f64,
        linears: c.active_parameters() as f64 - embeddings,
        cached: c.layers * 2 * kv * size,
    }
}

/// A token of a source meets the encoder, and the keys and values of the cross attention; one of a target the decoder.
fn encoder_decoder(c: &EncoderDecoderConfig, load: &Load) -> Cost {
    let (h, inner, size) = (c.hidden_size, c.heads * c.head_dim, load.compute.size_in_bytes());
    let f = c.intermediate_size * if c.gated { 2 } else { 1 };
    let encoder = (4 * h + 4 * inner + f) * size;
    let decoder = (6 * h + 6 * inner + f) * size;
    let values = |linears: Vec<LinearLayout>| linears.iter().map(|l| (l.inp * l.out) as f64).sum::<f64>();
    let layers = |stack: Stack| (0..c.layers(stack)).flat_map(|i| c.layer(stack, i).linears()).collect();
    let (target, source) = (load.trained_share, 1.0 - load.trained_share);
    let across = (c.decoder_layers * 2 * inner) as f64;
    let kept = source * ((c.encoder_layers * encoder) as f64 + across * size as f64)
        + target * (c.decoder_layers * decoder) as f64;
    let met = source * (values(layers(Stack::Encoder)) + across * h as f64) + target * values(layers(Stack::Decoder));
    let passing = (2 * h * 4 + (6 * inner + f) * size) as f64;
    let cached = c.decoder_layers * 2 * inner * size;
    Cost { hidden: h, vocab: c.vocab_size, kept, passing, linears: met, cached }
}

/// Peak memory by part, in bytes.
pub fn by_part(c: &ModelConfig, load: &Load) -> Vec<Part> {
    let part = |en: &str, zh: &str, bytes: u64| Part { name: Text::new(en, zh), bytes };
    let (cost, size) = (cost(c, load), load.compute.size_in_bytes());
    let predicted = (load.batch_tokens as f64 * load.trained_share) as u64;
    // Logits of a chunk in float32, and packed as the factor of their way back.
    let chunk = predicted.min(256) * (cost.vocab * (4 + size)) as u64;
    let weights = match load.full {
        true => load.parameters * 4,
        false => base::bytes(load.parameters, size as u64, load.quantised) + load.trainable * 4,
    };
    let activations = (load.batch_tokens as f64 * (cost.kept + cost.passing)) as u64;
    let head = chunk + 2 * predicted * cost.hidden as u64 * 4;
    // Keys and values, and the logits of all with a copy. While answers are sampled nothing is kept for a way back, so only
    // what they need beyond that room counts.
    let (answers, positions) = load.sampled;
    let rollouts = positions * cost.cached as u64 + answers * (cost.vocab * 2 * 4) as u64;
    let mut parts = vec![
        part("weights", "权重", weights),
        part("gradients and optimizer", "梯度与优化器", load.trainable * 8 + load.state),
        part("activations", "激活", activations),
        part("head", "输出层", head),
        part("program and data", "程序与数据", PROGRAM + load.samples * 20),
    ];
    if let Some(more) = rollouts.checked_sub(activations + head).filter(|more| *more > 0) {
        parts.push(part("sampling", "采样", more));
    }
    parts
}

/// Whether a run has to compute activations again to fit into the memory that is free: bytes needed without, and free. Only
/// decoders can.
pub fn too_large(c: &ModelConfig, load: &Load) -> Option<(u64, u64)> {
    let needed = by_part(c, &Load { recompute: false, ..*load }).iter().map(|part| part.bytes).sum();
    memory::free().filter(|free| needed > *free && !c.is_encoder_decoder()).map(|free| (needed, free))
}

/// Seconds of all steps, at the speed of this machine, and what that rests on.
pub fn seconds(c: &ModelConfig, load: &Load) -> (f64, Text) {
    let Cost { hidden, vocab, linears, .. } = cost(c, load);
    // Forward, backward to the inputs, and to the weights where all are trained; forward again with recompute.
    let passes = 2.0 + f64::from(u8::from(load.full)) + f64::from(u8::from(load.recompute));
    let per_token = 2.0 * linears * passes + 2.0 * (vocab * hidden) as f64 * load.trained_share * passes;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::families::family;
    use serde_json::json;

    #[test]
    fn the_cache_of_many_long_answers_counts_beyond_the_room_of_learning() {
        let raw = json!({
            "model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5
        });
        let config = ModelConfig::Decoder(Box::new(family(&raw).unwrap().config(&raw).unwrap()));
        let load = Load {
            parameters: 1_000_000,
            trainable: 1000,
            full: false,
            samples: 10,
            batch_tokens: 300,
            total_tokens: 0,
            trained_share: 1.0,
            compute: DType::BF16,
            recompute: true,
            quantised: None,
            state: 0,
            sampled: (0, 0),
        };
        let sum = |load: &Load| by_part(&config, load).iter().map(|part| part.bytes).sum::<u64>();
        let few = Load { sampled: (2, 2 * 400), ..load };
        assert_eq!(sum(&few), sum(&load), "a small cache fits into what learning needs anyway");
        let many = Load { sampled: (64, 64 * 4000), ..load };
        // 64 caches of 4000 positions: keys and values of 4 layers, 2 heads of 16 values, 2 bytes each; and logits.
        let cache = 64 * 4000 * 4 * 2 * 2 * 16 * 2 + 64 * 1000 * 8;
        let learning: u64 = by_part(&config, &load)[2..4].iter().map(|part| part.bytes).sum();
        assert_eq!(sum(&many), sum(&load) + cache - learning);
    }
}
