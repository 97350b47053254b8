//! Gemma 2: norms before and behind each branch with weights stored less one, capped scores and logits, a scaled
//! embedding, GELU, and a window in every second layer.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, NormKind, with_defaults},
        names::{LLAMA, Names},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Gemma2;

impl Entry for Gemma2 {
    fn card(&self) -> Card {
        Card {
            name: "gemma2".into(),
            title: Text::new("Gemma 2", "Gemma 2"),
            help: Text::new("Gemma 2", "Gemma 2"),
            schema: json!({}),
        }
    }
}

impl Family for Gemma2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Gemma2ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut config = with_defaults(
            config,
            json!({
                "head_dim": 256, "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            }),
        );
        for (key, cap) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
            // Null means that there is none.
            if config.get(key).is_none() {
                config[key] = cap.into();
            }
        }
        let mut decoder = gemma(&config)?;
        decoder.set_windows(&config, |i| i % 2 == 0);
        Ok(decoder)
    }
}

/// What Gemma 2 and 3 share. The configuration has `query_pre_attn_scalar`; caps may be absent.
pub(super) fn gemma(config: &Value) -> Result<DecoderConfig> {
    // `hidden_act` of early files is not what the models use.
    let activation = config["hidden_activation"].as_str().unwrap_or("gelu_pytorch_tanh");
    let mut config = config.clone();
    config["hidden_act"] = activation.into();
    let read = DecoderConfig::read(&config)?;
    let cap = |key: &str| config[key].as_f64().map(|cap| cap as f32);
    let scalar = config["query_pre_attn_scalar"].as_f64().unwrap_or(read.head_dim as f64);
    Ok(DecoderConfig {
        norm: NormKind::RmsPlusOne,
        attention_scale: scalar.powf(-0.5) as f32,
        attention_softcap: cap("attn_logit_softcapping"),
        logit_softcap: cap("final_logit_softcapping"),
        embedding_scale: (read.hidden_size as f32).sqrt(),
        names: Names {
            attention_post_norm: Some("post_attention_layernorm"),
            mlp_norm: Some("pre_feedforward_layernorm"),
            mlp_post_norm: Some("post_feedforward_layernorm"),
            ..LLAMA
        },
        ..read
    })
}
