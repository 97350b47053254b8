//! GLM-4 of 2024 (`glm`) in the layout of transformers: gate and up in one linear, half of each head rotated by
//! neighbours, biases on q, k and v.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, rotary_share, with_defaults},
        names::{LLAMA, MlpNames, Names},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Glm;

impl Entry for Glm {
    fn card(&self) -> Card {
        Card {
            name: "glm".into(),
            title: Text::new("GLM-4", "GLM-4"),
            help: Text::new(
                "GLM-4-9B in transformers' own layout, GLM-Edge",
                "GLM-4-9B（transformers 格式）、GLM-Edge",
            ),
            schema: json!({}),
        }
    }
}

impl Family for Glm {
    fn architectures(&self) -> &'static [&'static str] {
        &["GlmForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        glm(config)
    }
}

/// What both generations share.
pub(super) fn glm(config: &Value) -> Result<DecoderConfig> {
    let config = with_defaults(config, json!({"head_dim": 128, "rms_norm_eps": 1.5625e-7, "attention_bias": true}));
    let mut decoder = DecoderConfig::read_rotating(&config, rotary_share(&config, 0.5))?;
    if let Some(rope) = &mut decoder.rope {
        rope.interleaved = true;
    }
    let names = Names { mlp: MlpNames::Fused { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" }, ..LLAMA };
    Ok(DecoderConfig { out_bias: false, names, ..decoder })
}
