//! Gemma 3, the text models: Gemma 2 with norms on the heads of q and k instead of caps, and five of six layers with a
//! window and a rotary embedding of their own.

use super::{Family, gemma2::gemma};
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, QkNorm, not_supported, with_defaults},
        rope::{RopeConfig, RopeScaling},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Gemma3;

impl Entry for Gemma3 {
    fn card(&self) -> Card {
        Card {
            name: "gemma3_text".into(),
            title: Text::new("Gemma 3", "Gemma 3"),
            help: Text::new("Gemma 3, text models", "Gemma 3 文本模型"),
            schema: json!({}),
        }
    }
}

impl Family for Gemma3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma3ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut config = with_defaults(
            config,
            json!({
                "head_dim": 256, "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                "sliding_window_pattern": 6, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0,
                "rope_parameters": {},
            }),
        );
        if config["use_bidirectional_attention"] == true {
            return Err(not_supported("use_bidirectional_attention", &config["use_bidirectional_attention"]));
        }
        // transformers 5 writes one entry for each kind of layer.
        let new = config["rope_parameters"].take();
        let [full, windowed] = ["full_attention", "sliding_attention"].map(|kind| new[kind].clone());
        let local = windowed["rope_theta"].as_f64().or(config["rope_local_base_freq"].as_f64());
        if full.is_object() {
            config["rope_theta"] = full["rope_theta"].clone();
            config["rope_scaling"] = full;
        }
        let mut decoder = DecoderConfig { qk_norm: QkNorm::Heads, ..gemma(&config)? };
        let pattern = config["sliding_window_pattern"].as_u64().unwrap_or(6).max(1) as usize;
        decoder.set_windows(&config, |i| !(i + 1).is_multiple_of(pattern));
        if let Some(rope) = &decoder.rope {
            let theta = local.unwrap_or(10_000.0);
            decoder.window_rope = Some(RopeConfig { theta, scaling: RopeScaling::None, ..rope.clone() });
        }
        Ok(decoder)
    }
}
