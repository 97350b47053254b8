//! Llama 2 and 3 and the models of their shape: SmolLM, TinyLlama, Yi, Falcon 3, DeepSeek-R1-Distill-Llama.

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
            help: Text::new(
                "Llama 2 and 3, SmolLM, TinyLlama, Yi, Falcon 3, DeepSeek-R1-Distill-Llama",
                "Llama 2 与 3、SmolLM、TinyLlama、Yi、Falcon 3、DeepSeek-R1-Distill-Llama",
            ),
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
