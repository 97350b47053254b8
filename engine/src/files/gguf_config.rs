//! GGUF metadata and tensor names in Hugging Face's words.

use super::gguf::Header;
use crate::Result;
use api::Problem;
use serde_json::{Map, Value, json};
use std::path::Path;

/// An architecture that GGUF files of decoders carry.
pub struct Architecture {
    /// `general.architecture`.
    pub gguf: &'static str,
    pub model_type: &'static str,
    class: &'static str,
    /// The rows of q and k stand interleaved in the file (llama.cpp's rotary embedding turns neighbours).
    permuted: bool,
    /// `attention_bias` is a key of the configuration.
    bias_key: bool,
}

/// Mistral models come as `llama`; those with a sliding window are told by it.
static ARCHITECTURES: [Architecture; 3] = [
    Architecture { gguf: "llama", model_type: "llama", class: "LlamaForCausalLM", permuted: true, bias_key: true },
    Architecture { gguf: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", permuted: false, bias_key: false },
    Architecture { gguf: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", permuted: false, bias_key: true },
];

/// Factors that stretch the rotary embedding, one for each pair of a head; Llama 3.1 and later have them.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Modules outside the layers, and those of a layer.
const ENDS: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The tensor's name in GGUF, the other way round.
pub fn gguf_name(hugging_face: &str) -> Option<String> {
    let (stem, kind) = hugging_face.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    if let Some((name, _)) = ENDS.iter().find(|(_, name)| *name == stem) {
        return Some(format!("{name}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (name, _) = PARTS.iter().find(|(_, name)| *name == part)?;
    Some(format!("blk.{layer}.{name}.{kind}"))
}

/// What models of a `model_type` are in GGUF.
pub fn architecture_of(model_type: &str) -> Option<&'static Architecture> {
    let model_type = if model_type == "mistral" { "llama" } else { model_type };
    ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type)
}

/// The `model_type`s that [`architecture_of`] knows.
pub fn known() -> String {
    let all: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.model_type).chain(["mistral"]).collect();
    all.join(", ")
}

impl Architecture {
    /// How many heads the rows of this tensor are interleaved over in GGUF, if they are.
    pub fn heads_of(&self, gguf_name: &str, heads: usize, kv_heads: usize) -> Option<usize> {
        match gguf_name {
            _ if !self.permuted => None,
            name if name.contains(".attn_q.") => Some(heads),
            name if name.contains(".attn_k.") => Some(kv_heads),
            _ => None,
        }
    }
}

/// The tensor's name in Hugging Face's layout; `None` if decoders here have no such tensor.
pub fn hugging_face_name(gguf: &str) -> Option<String> {
    let (stem, kind) = gguf.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let name = match stem {
        _ if let Some((_, name)) = ENDS.iter().find(|(gguf, _)| *gguf == stem) => (*name).to_string(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let (_, part) = PARTS.iter().find(|(gguf, _)| *gguf == part)?;
            format!("model.layers.{layer}.{part}")
        }
    };
    Some(format!("{name}.{kind}"))
}

/// How many heads the rows of this tensor are interleaved over, if they are and must be put back.
pub fn permuted_heads(header: &Header, gguf_name: &str) -> Option<u64> {
    let name = header.text("general.architecture")?;
    let architecture = ARCHITECTURES.iter().find(|a| a.gguf == name && a.permuted)?;
    let heads = header.number(&format!("{}.attention.head_count", architecture.gguf));
    if gguf_name.contains(".attn_q.") {
        heads
    } else if gguf_name.contains(".attn_k.") {
        header.number(&format!("{}.attention.head_count_kv", architecture.gguf)).or(heads)
    } else {
        None
    }
}

/// `config.json` as Hugging Face would have it. `rope_factors`: the content of [`ROPE_FACTORS`], if it is there.
pub fn config(path: &Path, header: &Header, rope_factors: Option<&[f32]>) -> Result<Value> {
    let shown = path.display();
    let name = header.text("general.architecture").unwrap_or_default();
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.gguf == name) else {
        let known = ARCHITECTURES.iter().map(|a| a.gguf).collect::<Vec<_>>().join(", ");
        return Err(Problem::new(
            "gguf_architecture",
            format!("{shown} is a model of the architecture {name:?}; as GGUF these can be read: {known}."),
            format!("{shown} 的架构是 {name:?}；GGUF 格式可读取的架构有：{known}。"),
        )
        .hint("Take the model as safetensors, or another model.", "请使用该模型的 safetensors 版本，或换一个模型。")
        .into());
    };
    let get = |key: &str| header.number(&format!("{name}.{key}"));
    let need = |key: &str| get(key).filter(|n| *n > 0).ok_or_else(|| missing(path, &format!("{name}.{key}")));
    if get("expert_count").is_some_and(|n| n > 0) {
        return Err(Problem::new(
            "gguf_architecture",
            format!("{shown} is a mixture of experts, which can't be read from GGUF."),
            format!("{shown} 是混合专家模型，无法从 GGUF 读取。"),
        )
        .hint("Choose a dense model.", "请选择稠密模型。")
        .into());
    }
    let embedding = header.tensors.iter().find(|t| t.name == "token_embd.weight");
    let vocab_size = embedding.and_then(|t| t.shape.first()).ok_or_else(|| missing(path, "token_embd.weight"))?;
    let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_dim = get("attention.key_length").or(get("rope.dimension_count")).unwrap_or(hidden / heads);
    let has = |tensor: &str| header.tensors.iter().any(|t| t.name == tensor);

    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_string(), value);
    set("architectures", json!([architecture.class]));
    set("model_type", json!(architecture.model_type));
    if architecture.bias_key {
        set("attention_bias", json!(has("blk.0.attn_q.bias")));
    }
    if architecture.gguf == "llama" {
        set("mlp_bias", json!(has("blk.0.ffn_up.bias")));
    }
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(need("feed_forward_length")?));
    set("num_hidden_layers", json!(need("block_count")?));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(get("attention.head_count_kv").unwrap_or(heads)));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(need("context_length")?));
    let epsilon = format!("{name}.attention.layer_norm_rms_epsilon");
    set("rms_norm_eps", json!(header.float(&epsilon).ok_or_else(|| missing(path, &epsilon))?));
    set("rope_theta", json!(header.float(&format!("{name}.rope.freq_base")).unwrap_or(10_000.0)));
    set("rope_scaling", rope_scaling(path, header, name, rope_factors, head_dim)?);
    if let Some(window) = get("attention.sliding_window").filter(|n| *n > 0 && architecture.gguf == "llama") {
        set("architectures", json!(["MistralForCausalLM"]));
        set("model_type", json!("mistral"));
        set("sliding_window", json!(window));
    }
    set("tie_word_embeddings", json!(!has("output.weight")));
    set("vocab_size", json!(vocab_size));
    for (key, gguf) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = header.number(&format!("tokenizer.ggml.{gguf}_token_id")) {
            set(key, json!(id));
        }
    }
    set("use_cache", json!(true));
    Ok(Value::Object(config))
}

/// `rope_scaling` of the configuration, or null.
fn rope_scaling(path: &Path, header: &Header, name: &str, factors: Option<&[f32]>, head_dim: u64) -> Result<Value> {
    if let Some(factors) = factors {
        return llama3_scaling(path, header, name, factors, head_dim);
    }
    let factor =
        header.float(&format!("{name}.rope.scaling.factor")).or(header.float(&format!("{name}.rope.scale_linear")));
    let original = header.number(&format!("{name}.rope.scaling.original_context_length"));
    match (header.text(&format!("{name}.rope.scaling.type")), factor) {
        (None | Some("linear"), Some(factor)) if factor != 1.0 => {
            Ok(json!({ "rope_type": "linear", "factor": factor }))
        }
        (None | Some("none" | "linear"), _) => Ok(Value::Null),
        (Some("yarn"), Some(factor)) => {
            let mut scaling = json!({ "rope_type": "yarn", "factor": factor });
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = json!(original);
            }
            Ok(scaling)
        }
        (Some(other), _) => Err(unknown_scaling(path, other)),
    }
}

/// Llama 3's stretching, found again from its factors. They depend on four numbers, of which all models have the
/// same three (1, 4 and 8192), so the largest factor gives the fourth; whether it does is checked.
fn llama3_scaling(path: &Path, header: &Header, name: &str, factors: &[f32], head_dim: u64) -> Result<Value> {
    let base = header.float(&format!("{name}.rope.freq_base")).unwrap_or(10_000.0);
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let (low, high, original) = (1.0, 4.0, 8192.0);
    for (i, found) in factors.iter().enumerate() {
        let wavelength = std::f64::consts::TAU * base.powf(2.0 * i as f64 / head_dim as f64);
        let expected = if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        // Written so that a NaN fails.
        if (f64::from(*found) - expected).abs() <= 1e-3 * expected {
            continue;
        }
        return Err(unknown_scaling(path, &format!("{ROPE_FACTORS}[{i}] = {found}")));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as u64,
    }))
}

fn unknown_scaling(path: &Path, what: &str) -> crate::Error {
    let shown = path.display();
    Problem::new(
        "gguf_rope",
        format!("{shown} stretches its rotary embedding in a way that is not known ({what})."),
        format!("{shown} 的旋转位置编码缩放方式未知（{what}）。"),
    )
    .hint("Take the model as safetensors, or another model.", "请使用该模型的 safetensors 版本，或换一个模型。")
    .into()
}

fn missing(path: &Path, key: &str) -> crate::Error {
    let shown = path.display();
    Problem::new("gguf_key", format!("{shown} lacks {key}."), format!("{shown} 缺少 {key}。"))
        .hint("Take another GGUF of this model.", "请换一个该模型的 GGUF 文件。")
        .into()
}
