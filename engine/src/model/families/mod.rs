//! Model families: how a `config.json` becomes a [`DecoderConfig`]. One file for each; one line here.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use super::config::DecoderConfig;
use crate::{Result, entry::Entry};
use api::Problem;
use serde_json::Value;

/// A family of decoders.
pub trait Family: Entry {
    /// `architectures` of the config.json files that it reads.
    fn architectures(&self) -> &'static [&'static str];

    fn config(&self, config: &Value) -> Result<DecoderConfig>;
}

pub static FAMILIES: &[&dyn Family] = &[&llama::Llama, &mistral::Mistral, &qwen2::Qwen2, &qwen3::Qwen3];

/// The family of a config.json, by its `architectures`.
pub fn family(config: &Value) -> Result<&'static dyn Family> {
    let named = config["architectures"].as_array().and_then(|a| a.first()).and_then(Value::as_str);
    let name = named.unwrap_or_default();
    let known = || FAMILIES.iter().flat_map(|f| f.architectures()).copied().collect::<Vec<_>>().join(", ");
    FAMILIES.iter().copied().find(|f| f.architectures().contains(&name)).ok_or_else(|| {
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
