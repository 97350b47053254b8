//! A model as one GGUF file that llama.cpp and Ollama load.

use crate::{
    Result,
    files::{
        ModelFiles,
        gguf::Value,
        gguf_config::{self, Architecture, ROPE_FACTORS},
        gguf_write::{self, Planned},
    },
    model::{DecoderConfig, RopeConfig, RopeScaling},
};
use api::{Problem, params::ExportQuantization as Quantization};
use candle_core::{Device, Tensor, quantized::GgmlDType};
use std::path::Path;

/// `general.file_type`, and what most of its tensors are.
fn file_type(quantization: Quantization) -> (u64, GgmlDType) {
    match quantization {
        Quantization::F32 => (0, GgmlDType::F32),
        Quantization::F16 => (1, GgmlDType::F16),
        Quantization::Q4_0 => (2, GgmlDType::Q4_0),
        Quantization::Q8_0 => (7, GgmlDType::Q8_0),
        Quantization::Q4KM => (15, GgmlDType::Q4K),
        Quantization::Q5KM => (17, GgmlDType::Q5K),
        Quantization::Q6K => (18, GgmlDType::Q6K),
        Quantization::Bf16 => (32, GgmlDType::BF16),
    }
}

/// What a model of this shape is called in GGUF, or why it has no name there.
pub fn architecture(files: &ModelFiles) -> Result<&'static Architecture> {
    let model_type = files.config()["model_type"].as_str().unwrap_or_default();
    gguf_config::architecture_of(model_type).ok_or_else(|| no_architecture(model_type).into())
}

/// Writes the model of `files` as the file `path`; `tensor` gives the (merged) tensor of a Hugging Face name in float32, one
/// after the other. `progress` hears bytes done and in all.
pub fn write(
    path: &Path,
    files: &ModelFiles,
    config: &DecoderConfig,
    name: &str,
    quantization: Quantization,
    mut tensor: impl FnMut(&str) -> Result<Tensor>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let architecture = architecture(files)?;
    let (number, kind) = file_type(quantization);
    let mut metadata = metadata(architecture, files, config, name, number)?;
    metadata.extend(files.gguf_vocabulary(config.vocab_size)?);
    let factors = rope_factors(config.rope.as_ref());
    let mut plan: Vec<Planned> = Vec::new();
    if let Some(factors) = &factors {
        plan.push(Planned { name: ROPE_FACTORS.into(), kind: GgmlDType::F32, shape: vec![factors.len()] });
    }
    for name in in_order(config) {
        let shape = files.shape(&name)?;
        let gguf = gguf_config::gguf_name(&name).ok_or_else(|| no_tensor(&name))?;
        let kind = kind_of(&gguf, &shape, config, quantization, kind);
        plan.push(Planned { name: gguf, kind, shape });
    }
    let read = |planned: &Planned| -> Result<Tensor> {
        if let Some(factors) = factors.as_ref().filter(|_| planned.name == ROPE_FACTORS) {
            return Ok(Tensor::new(factors.as_slice(), &Device::Cpu)?);
        }
        let name = gguf_config::hugging_face_name(&planned.name).ok_or_else(|| no_tensor(&planned.name))?;
        let value = tensor(&name)?;
        match architecture.heads_of(&planned.name, config.heads, config.kv_heads) {
            Some(heads) => permute(&value, heads),
            None => Ok(value),
        }
    };
    gguf_write::write(path, &metadata, &plan, read, progress)
}

/// Names of the tensors as llama.cpp orders them: layer by layer.
fn in_order(config: &DecoderConfig) -> Vec<String> {
    let mut names: Vec<String> = config.tensors().into_iter().map(|(name, _)| name).collect();
    let number = |name: &String| {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        // The embedding before the layers, norm and head behind them.
        layer.map_or(if name.contains("embed") { 0 } else { usize::MAX }, |layer| layer + 1)
    };
    names.sort_by_key(number);
    names
}

/// The rows of q and k as llama.cpp wants them: (heads, 2, dim / 2, …) to (heads, dim / 2, 2, …).
pub fn permute(tensor: &Tensor, heads: usize) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let (rows, rest) = (shape.first().copied().unwrap_or(0), shape.iter().skip(1).product::<usize>());
    let split = tensor.reshape((heads, 2, rows / heads.max(1) / 2, rest))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape(shape)?)
}

/// The kind of a tensor, by the rules of llama.cpp's `llama-quant.cpp`.
fn kind_of(
    name: &str,
    shape: &[usize],
    config: &DecoderConfig,
    quantization: Quantization,
    usual: GgmlDType,
) -> GgmlDType {
    if shape.len() < 2 {
        return GgmlDType::F32;
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let more = layer.is_some_and(|layer| more_bits(layer, config.layers));
    let is_mix = matches!(quantization, Quantization::Q4KM | Quantization::Q5KM);
    let is_plain = matches!(usual, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
    let is_head = name == "output.weight" || (config.tie_embeddings && name == "token_embd.weight");
    let kind = match usual {
        _ if is_plain || usual == GgmlDType::Q8_0 => usual,
        _ if is_head => GgmlDType::Q6K,
        _ if is_mix && more && (name.contains("attn_v.") || name.contains("ffn_down.")) => GgmlDType::Q6K,
        _ => usual,
    };
    let columns = shape.last().copied().unwrap_or(0);
    if columns.is_multiple_of(kind.block_size()) {
        return kind;
    }
    // Rows that are no whole blocks of 256, then of 32.
    let smaller = match kind {
        GgmlDType::Q4K => GgmlDType::Q5_0,
        GgmlDType::Q5K => GgmlDType::Q5_1,
        _ => GgmlDType::Q8_0,
    };
    if columns.is_multiple_of(smaller.block_size()) { smaller } else { GgmlDType::F16 }
}

/// Whether a layer's most sensitive matrices get more bits in a mix: the first and last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

fn metadata(
    architecture: &Architecture,
    files: &ModelFiles,
    config: &DecoderConfig,
    name: &str,
    file_type: u64,
) -> Result<Vec<(String, Value)>> {
    let own = architecture.gguf;
    let mut all = Vec::new();
    let mut put = |key: String, value: Value| all.push((key, value));
    let number = |n: usize| Value::Uint(n as u64);
    let float = |x: f64| Value::Float32(x as f32);
    put("general.architecture".into(), Value::Text(own.into()));
    put("general.type".into(), Value::Text("model".into()));
    put("general.name".into(), Value::Text(name.into()));
    put("general.size_label".into(), Value::Text(size_label(files.parameters())));
    put("general.file_type".into(), Value::Uint(file_type));
    put("general.quantization_version".into(), Value::Uint(2));
    for (key, value) in [
        ("block_count", number(config.layers)),
        ("context_length", number(config.context)),
        ("embedding_length", number(config.hidden_size)),
        ("feed_forward_length", number(config.intermediate_size)),
        ("attention.head_count", number(config.heads)),
        ("attention.head_count_kv", number(config.kv_heads)),
        ("attention.key_length", number(config.head_dim)),
        ("attention.value_length", number(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", float(config.norm_eps)),
        ("vocab_size", number(config.vocab_size)),
    ] {
        put(format!("{own}.{key}"), value);
    }
    if let Some(window) = config.windows.iter().flatten().next() {
        put(format!("{own}.attention.sliding_window"), number(*window));
    }
    let Some(rope) = &config.rope else { return Err(no_architecture(architecture.model_type).into()) };
    put(format!("{own}.rope.dimension_count"), number(rope.dim));
    put(format!("{own}.rope.freq_base"), float(rope.theta));
    match &rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            put(format!("{own}.rope.scaling.type"), Value::Text("linear".into()));
            put(format!("{own}.rope.scaling.factor"), float(*factor));
        }
        RopeScaling::Yarn { factor, original, .. } => {
            put(format!("{own}.rope.scaling.type"), Value::Text("yarn".into()));
            put(format!("{own}.rope.scaling.factor"), float(*factor));
            put(format!("{own}.rope.scaling.original_context_length"), number(*original));
        }
        RopeScaling::Dynamic { .. } | RopeScaling::Long { .. } => return Err(no_scaling().into()),
    }
    Ok(all)
}

/// Divisors of the frequencies where Llama 3.1 stretches them; llama.cpp reads these instead of their four numbers.
fn rope_factors(rope: Option<&RopeConfig>) -> Option<Vec<f32>> {
    let rope = rope?;
    let RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original } = &rope.scaling else {
        return None;
    };
    let original = *original as f64;
    let divisor = |i: usize| {
        let wavelength = std::f64::consts::TAU * rope.theta.powf(2.0 * i as f64 / rope.dim as f64);
        let smooth = (original / wavelength - low) / (high - low);
        match wavelength {
            w if w < original / high => 1.0,
            w if w > original / low => *factor,
            _ => 1.0 / ((1.0 - smooth) / factor + smooth),
        }
    };
    Some((0..rope.dim / 2).map(|i| divisor(i) as f32).collect())
}

/// As `gguf` writes it: `135M`, `1.7B`.
fn size_label(parameters: u64) -> String {
    let (value, unit) = match parameters {
        n if n >= 1_000_000_000 => (n as f64 / 1e9, "B"),
        n if n >= 1_000_000 => (n as f64 / 1e6, "M"),
        n => (n as f64 / 1e3, "K"),
    };
    if value >= 10.0 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

fn no_architecture(model_type: &str) -> Problem {
    let known = gguf_config::known();
    Problem::new(
        "gguf_architecture",
        format!("A model of the type {model_type} isn't written as GGUF here; these are: {known}."),
        format!("类型为 {model_type} 的模型无法在此导出为 GGUF；可导出的有：{known}。"),
    )
    .hint("Export it with export_format: hf.", "请使用 export_format: hf 导出。")
    .field("export_format")
}

fn no_scaling() -> Problem {
    Problem::new(
        "gguf_rope",
        "GGUF has no word for the way in which this model stretches its rotary embedding (dynamic or longrope).",
        "GGUF 无法表示此模型的旋转位置编码缩放方式（dynamic 或 longrope）。",
    )
    .hint("Export it with export_format: hf.", "请使用 export_format: hf 导出。")
    .field("export_format")
}

pub fn no_tensor(name: &str) -> Problem {
    Problem::new("gguf_tensor", format!("GGUF has no tensor for {name}."), format!("GGUF 中没有与 {name} 对应的张量。"))
        .hint("Export it with export_format: hf.", "请使用 export_format: hf 导出。")
        .field("export_format")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn mixes_give_more_bits_where_llama_cpp_does() {
        // `use_more_bits` for 30 layers: n / 8 = 3, 7 n / 8 = 26.
        let more: Vec<usize> = (0..30).filter(|i| more_bits(*i, 30)).collect();
        assert_eq!(more, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
    }

    #[test]
    fn sizes_are_written_short() {
        assert_eq!([135_000_000, 1_700_000_000, 5_400].map(size_label), ["135M", "1.7B", "5.4K"]);
    }
}
