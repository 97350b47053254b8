//! Mistral 7B and Nemo: Llama with a sliding window.

use super::Family;
use crate::{Result, entry::Entry, model::DecoderConfig};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Mistral;

impl Entry for Mistral {
    fn card(&self) -> Card {
        Card {
            name: "mistral".into(),
            title: Text::new("Mistral", "Mistral"),
            help: Text::new("Mistral 7B, Nemo", "Mistral 7B、Nemo"),
            schema: json!({}),
        }
    }
}

impl Family for Mistral {
    fn architectures(&self) -> &'static [&'static str] {
        &["MistralForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut decoder = DecoderConfig::read(config)?;
        decoder.set_windows(config, |_| true);
        Ok(decoder)
    }
}
