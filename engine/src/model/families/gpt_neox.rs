//! GPT-NeoX and Pythia: attention and MLP read the same x, a part of each head is rotated, layer norms, an MLP without a
//! gate, q, k and v in one linear, grouped by head.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, NormKind, rotary_share, with_defaults},
        names::{LLAMA, MlpNames, Names, QkvNames},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct GptNeoX;

impl Entry for GptNeoX {
    fn card(&self) -> Card {
        Card {
            name: "gpt_neox".into(),
            title: Text::new("GPT-NeoX", "GPT-NeoX"),
            help: Text::new("Pythia, GPT-NeoX-20B", "Pythia、GPT-NeoX-20B"),
            schema: json!({}),
        }
    }
}

impl Family for GptNeoX {
    fn architectures(&self) -> &'static [&'static str] {
        &["GPTNeoXForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let config = with_defaults(
            config,
            json!({
                "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": true, "attention_bias": true,
                "rope_theta": config["rotary_emb_base"],
            }),
        );
        let share = rotary_share(&config, config["rotary_pct"].as_f64().unwrap_or(0.25));
        let read = DecoderConfig::read_rotating(&config, share)?;
        Ok(DecoderConfig {
            kv_heads: read.heads,
            norm: NormKind::Layer,
            norm_eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-5),
            mlp_bias: true,
            parallel: config["use_parallel_residual"].as_bool().unwrap_or(true),
            names: Names {
                embedding: "gpt_neox.embed_in",
                layers: "gpt_neox.layers",
                norm: "gpt_neox.final_layer_norm",
                head: "embed_out",
                qkv: QkvNames::Grouped("attention.query_key_value"),
                out: "attention.dense",
                mlp: MlpNames::Plain { up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" },
                ..LLAMA
            },
            ..read
        })
    }
}
