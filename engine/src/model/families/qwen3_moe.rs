//! Qwen3 with a mixture of experts in most layers.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, ExpertsConfig, QkNorm, number},
        names::MlpNames,
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Qwen3Moe;

impl Entry for Qwen3Moe {
    fn card(&self) -> Card {
        Card {
            name: "qwen3_moe".into(),
            title: Text::new("Qwen3 MoE", "Qwen3 MoE"),
            help: Text::new("Qwen3-30B-A3B, Qwen3-235B-A22B", "Qwen3-30B-A3B、Qwen3-235B-A22B"),
            schema: json!({}),
        }
    }
}

impl Family for Qwen3Moe {
    fn architectures(&self) -> &'static [&'static str] {
        &["Qwen3MoeForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut decoder = DecoderConfig { qk_norm: QkNorm::Heads, ..DecoderConfig::read(config)? };
        if config["use_sliding_window"].as_bool().unwrap_or(false) {
            decoder.set_windows(config, |_| true);
        }
        let dense: Vec<u64> =
            config["mlp_only_layers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let every = config["decoder_sparse_step"].as_u64().unwrap_or(1).max(1);
        let has_experts = |i: u64| !dense.contains(&i) && (i + 1).is_multiple_of(every);
        let experts = ExpertsConfig {
            count: number(config, "num_experts", None)?,
            active: number(config, "num_experts_per_tok", Some(8))?,
            intermediate_size: number(config, "moe_intermediate_size", None)?,
            normalised: config["norm_topk_prob"].as_bool().unwrap_or(false),
            layers: (0..decoder.layers as u64).map(has_experts).collect(),
            router: "mlp.gate",
            name: "mlp.experts",
            names: MlpNames::Gated { gate: "gate_proj", up: "up_proj", down: "down_proj" },
        };
        Ok(DecoderConfig { experts: Some(experts.check()?), ..decoder })
    }
}
