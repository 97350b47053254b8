//! Granite 3, the dense models: Llama with factors on embedding, scores, residual and logits.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::config::{DecoderConfig, factor},
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Granite;

impl Entry for Granite {
    fn card(&self) -> Card {
        Card {
            name: "granite".into(),
            title: Text::new("Granite", "Granite"),
            help: Text::new("Granite 3, dense models", "Granite 3 稠密模型"),
            schema: json!({}),
        }
    }
}

impl Family for Granite {
    fn architectures(&self) -> &'static [&'static str] {
        &["GraniteForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        Ok(DecoderConfig {
            attention_scale: factor(config, "attention_multiplier"),
            embedding_scale: factor(config, "embedding_multiplier"),
            scales_virtual: true,
            residual_scale: factor(config, "residual_multiplier"),
            logit_scale: 1.0 / factor(config, "logits_scaling"),
            ..DecoderConfig::read(config)?
        })
    }
}
