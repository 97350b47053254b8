//! OLMo 2: norms behind each branch only, and on q and k over all heads together.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, QkNorm, with_defaults},
        names::{LLAMA, Names},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Olmo2;

impl Entry for Olmo2 {
    fn card(&self) -> Card {
        Card {
            name: "olmo2".into(),
            title: Text::new("OLMo 2", "OLMo 2"),
            help: Text::new("OLMo 2", "OLMo 2"),
            schema: json!({}),
        }
    }
}

impl Family for Olmo2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Olmo2ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let config = with_defaults(config, json!({"rms_norm_eps": 1e-5}));
        let names = Names {
            attention_norm: None,
            attention_post_norm: Some("post_attention_layernorm"),
            mlp_norm: None,
            mlp_post_norm: Some("post_feedforward_layernorm"),
            ..LLAMA
        };
        Ok(DecoderConfig { qk_norm: QkNorm::Width, names, ..DecoderConfig::read(&config)? })
    }
}
