//! InternLM3: Llama with its biases under other keys.

use super::Family;
use crate::{Result, entry::Entry, model::DecoderConfig};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct InternLm3;

impl Entry for InternLm3 {
    fn card(&self) -> Card {
        Card {
            name: "internlm3".into(),
            title: Text::new("InternLM3", "InternLM3"),
            help: Text::new("InternLM3", "InternLM3"),
            schema: json!({}),
        }
    }
}

impl Family for InternLm3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["InternLM3ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let [qkv_bias, bias] = ["qkv_bias", "bias"].map(|key| config[key].as_bool().unwrap_or(false));
        Ok(DecoderConfig { qkv_bias, out_bias: bias, mlp_bias: bias, ..DecoderConfig::read(config)? })
    }
}
