//! Model families: how a `config.json` becomes a [`DecoderConfig`]. One file for each; one line here.

mod gemma2;
mod gemma3;
mod glm;
mod glm4;
mod gpt2;
mod gpt_neox;
mod granite;
mod internlm2;
mod internlm3;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use super::{config::DecoderConfig, encoder_decoder};
use crate::{Result, entry::Entry};
use api::Problem;
use serde_json::Value;

/// A family of decoders.
pub trait Family: Entry {
    /// `architectures` of the config.json files that it reads.
    fn architectures(&self) -> &'static [&'static str];

    fn config(&self, config: &Value) -> Result<DecoderConfig>;
}

pub static FAMILIES: &[&dyn Family] = &[
    &llama::Llama,
    &mistral::Mistral,
    &mixtral::Mixtral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &qwen3_moe::Qwen3Moe,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &phi3::Phi3,
    &glm::Glm,
    &glm4::Glm4,
    &internlm2::InternLm2,
    &internlm3::InternLm3,
    &olmo2::Olmo2,
    &granite::Granite,
    &gpt2::Gpt2,
    &gpt_neox::GptNeoX,
];

/// The family of a config.json, by its `architectures`; where there are none, by its `model_type`, which is the
/// family's name.
pub fn family(config: &Value) -> Result<&'static dyn Family> {
    let named = config["architectures"].as_array().and_then(|a| a.first()).and_then(Value::as_str);
    let name = named.or(config["model_type"].as_str()).unwrap_or_default();
    let known = || {
        let decoders = FAMILIES.iter().flat_map(|f| f.architectures()).copied();
        decoders.chain(encoder_decoder::ARCHITECTURES).collect::<Vec<_>>().join(", ")
    };
    let is_it = |f: &&dyn Family| match named {
        Some(architecture) => f.architectures().contains(&architecture),
        None => f.card().name == name,
    };
    FAMILIES.iter().copied().find(is_it).ok_or_else(|| {
        Problem::new(
            "unknown_architecture",
            format!("config.json: the architecture {name:?} is not known."),
            format!("config.json：不认识架构 {name:?}。"),
        )
        .hint(format!("Known are {}.", known()), format!("支持：{}。", known()))
        .field("model_name_or_path")
        .into()
    })
}

#[cfg(test)]
mod tests;
