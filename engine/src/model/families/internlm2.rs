//! InternLM2 and 2.5, as their own code lays them out: Llama by other names, with q, k and v in one linear, grouped by
//! key/value head.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, with_defaults},
        names::{LLAMA, MlpNames, Names, QkvNames},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct InternLm2;

impl Entry for InternLm2 {
    fn card(&self) -> Card {
        Card {
            name: "internlm2".into(),
            title: Text::new("InternLM2", "InternLM2"),
            help: Text::new("InternLM2, InternLM2.5", "InternLM2、InternLM2.5"),
            schema: json!({}),
        }
    }
}

impl Family for InternLm2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["InternLM2ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let config = with_defaults(config, json!({"attention_bias": config["bias"]}));
        let names = Names {
            embedding: "model.tok_embeddings",
            head: "output",
            qkv: QkvNames::Grouped("attention.wqkv"),
            out: "attention.wo",
            mlp: MlpNames::Gated { gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" },
            attention_norm: Some("attention_norm"),
            mlp_norm: Some("ffn_norm"),
            ..LLAMA
        };
        Ok(DecoderConfig { names, ..DecoderConfig::read(&config)? })
    }
}
