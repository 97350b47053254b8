//! GPT-2: learned positions, layer norms, an MLP without a gate, biases everywhere, and weights stored as (in, out).

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, NormKind, not_supported, with_defaults},
        names::{LLAMA, MlpNames, Names, QkvNames},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Gpt2;

impl Entry for Gpt2 {
    fn card(&self) -> Card {
        Card {
            name: "gpt2".into(),
            title: Text::new("GPT-2", "GPT-2"),
            help: Text::new("GPT-2, DistilGPT-2, DialoGPT", "GPT-2、DistilGPT-2、DialoGPT"),
            schema: json!({}),
        }
    }
}

impl Family for Gpt2 {
    fn architectures(&self) -> &'static [&'static str] {
        &["GPT2LMHeadModel"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        // Its own words for the common numbers.
        let hidden = config["n_embd"].as_u64().unwrap_or(768);
        let config = with_defaults(
            config,
            json!({
                "hidden_size": hidden, "num_attention_heads": config["n_head"], "num_hidden_layers": config["n_layer"],
                "max_position_embeddings": config["n_positions"], "intermediate_size": config["n_inner"],
                "hidden_act": config["activation_function"],
            }),
        );
        let config = with_defaults(
            &config,
            json!({
                "max_position_embeddings": 1024, "intermediate_size": 4 * hidden, "hidden_act": "gelu_new",
                "layer_norm_epsilon": 1e-5, "scale_attn_weights": true, "tie_word_embeddings": true,
            }),
        );
        let read = DecoderConfig::read(&config)?;
        for (key, known) in [("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)] {
            if config[key].as_bool().unwrap_or(known) != known {
                return Err(not_supported(key, &config[key]));
            }
        }
        Ok(DecoderConfig {
            norm: NormKind::Layer,
            norm_eps: config["layer_norm_epsilon"].as_f64().unwrap_or(1e-5),
            rope: None,
            qkv_bias: true,
            out_bias: true,
            mlp_bias: true,
            attention_scale: if config["scale_attn_weights"] == true { read.attention_scale } else { 1.0 },
            transposed: true,
            names: Names {
                embedding: "transformer.wte",
                positions: Some("transformer.wpe"),
                layers: "transformer.h",
                norm: "transformer.ln_f",
                qkv: QkvNames::Fused("attn.c_attn"),
                out: "attn.c_proj",
                mlp: MlpNames::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
                attention_norm: Some("ln_1"),
                mlp_norm: Some("ln_2"),
                ..LLAMA
            },
            ..read
        })
    }
}
