//! Qwen3 (dense): norms on the heads of q and k.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::config::{DecoderConfig, QkNorm},
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Qwen3;

impl Entry for Qwen3 {
    fn card(&self) -> Card {
        Card {
            name: "qwen3".into(),
            title: Text::new("Qwen3", "Qwen3"),
            help: Text::new("Qwen3", "Qwen3"),
            schema: json!({}),
        }
    }
}

impl Family for Qwen3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut decoder = DecoderConfig { qk_norm: QkNorm::Heads, ..DecoderConfig::read(config)? };
        if config["use_sliding_window"].as_bool().unwrap_or(false) {
            let full = config["max_window_layers"].as_u64().unwrap_or(28) as usize;
            decoder.set_windows(config, |i| i >= full);
        }
        Ok(decoder)
    }
}
