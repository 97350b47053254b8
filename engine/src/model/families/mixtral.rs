//! Mixtral: Mistral with a mixture of experts in every layer.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, ExpertsConfig, number, with_defaults},
        names::MlpNames,
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Mixtral;

impl Entry for Mixtral {
    fn card(&self) -> Card {
        Card {
            name: "mixtral".into(),
            title: Text::new("Mixtral", "Mixtral"),
            help: Text::new("Mixtral 8x7B, 8x22B", "Mixtral 8x7B、8x22B"),
            schema: json!({}),
        }
    }
}

impl Family for Mixtral {
    fn architectures(&self) -> &'static [&'static str] {
        &["MixtralForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let config =
            with_defaults(config, json!({"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2}));
        let mut decoder = DecoderConfig::read(&config)?;
        decoder.set_windows(&config, |_| true);
        let experts = ExpertsConfig {
            count: number(&config, "num_local_experts", None)?,
            active: number(&config, "num_experts_per_tok", None)?,
            intermediate_size: decoder.intermediate_size,
            normalised: true,
            layers: vec![true; decoder.layers],
            router: "block_sparse_moe.gate",
            name: "block_sparse_moe.experts",
            names: MlpNames::Gated { gate: "w1", up: "w3", down: "w2" },
        };
        Ok(DecoderConfig { experts: Some(experts.check()?), ..decoder })
    }
}
