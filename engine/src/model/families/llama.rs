//! Llama 2 and 3 and the models of their shape: SmolLM2, TinyLlama, Yi, DeepSeek-R1-Distill-Llama.

use super::Family;
use crate::{Result, entry::Entry, model::DecoderConfig};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Llama;

impl Entry for Llama {
    fn card(&self) -> Card {
        Card {
            name: "llama".into(),
            title: Text::new("Llama", "Llama"),
            help: Text::new("Llama 2 and 3, SmolLM2, TinyLlama, Yi", "Llama 2 与 3、SmolLM2、TinyLlama、Yi"),
            schema: json!({}),
        }
    }
}

impl Family for Llama {
    fn architectures(&self) -> &'static [&'static str] {
        &["LlamaForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        DecoderConfig::read(config)
    }
}
