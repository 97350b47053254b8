//! Qwen2 and Qwen2.5, DeepSeek-R1-Distill-Qwen: biases on q, k and v; a sliding window in the upper layers if asked for.

use super::Family;
use crate::{Result, entry::Entry, model::DecoderConfig};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Qwen2;

impl Entry for Qwen2 {
    fn card(&self) -> Card {
        Card {
            name: "qwen2".into(),
            title: Text::new("Qwen2", "Qwen2"),
            help: Text::new("Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen", "Qwen2、Qwen2.5、DeepSeek-R1-Distill-Qwen"),
            schema: json!({}),
        }
    }
}

impl Family for Qwen2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen2ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut decoder = DecoderConfig { qkv_bias: true, out_bias: false, ..DecoderConfig::read(config)? };
        if config["use_sliding_window"].as_bool().unwrap_or(false) {
            let full = config["max_window_layers"].as_u64().unwrap_or(28) as usize;
            decoder.set_windows(config, |i| i >= full);
        }
        Ok(decoder)
    }
}
