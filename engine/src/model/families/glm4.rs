//! GLM-4-0414 and GLM-Z1 (`glm4`): GLM-4 with norms behind each branch, too.

use super::{Family, glm::glm};
use crate::{
    Result,
    entry::Entry,
    model::{config::DecoderConfig, names::Names},
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Glm4;

impl Entry for Glm4 {
    fn card(&self) -> Card {
        Card {
            name: "glm4".into(),
            title: Text::new("GLM-4-0414", "GLM-4-0414"),
            help: Text::new("GLM-4-0414, GLM-Z1", "GLM-4-0414、GLM-Z1"),
            schema: json!({}),
        }
    }
}

impl Family for Glm4 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Glm4ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let decoder = glm(config)?;
        let names = Names {
            attention_post_norm: Some("post_self_attn_layernorm"),
            mlp_post_norm: Some("post_mlp_layernorm"),
            ..decoder.names
        };
        Ok(DecoderConfig { names, ..decoder })
    }
}
