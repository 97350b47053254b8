//! Phi-3 and Phi-4: Llama with q, k and v in one linear and gate and up in one; LongRoPE in those for long texts.

use super::Family;
use crate::{
    Result,
    entry::Entry,
    model::{
        config::{DecoderConfig, rotary_share, with_defaults},
        names::{LLAMA, MlpNames, Names, QkvNames},
    },
};
use api::{Card, Text};
use serde_json::{Value, json};

pub struct Phi3;

impl Entry for Phi3 {
    fn card(&self) -> Card {
        Card {
            name: "phi3".into(),
            title: Text::new("Phi-3 and Phi-4", "Phi-3 and Phi-4"),
            help: Text::new("Phi-3, Phi-3.5, Phi-4, Phi-4-mini", "Phi-3、Phi-3.5、Phi-4、Phi-4-mini"),
            schema: json!({}),
        }
    }
}

impl Family for Phi3 {
    fn architectures(&self) -> &'static [&'static str] {
        &["Phi3ForCausalLM"]
    }

    fn config(&self, config: &Value) -> Result<DecoderConfig> {
        let mut config = with_defaults(config, json!({"rms_norm_eps": 1e-5}));
        // Early files call LongRoPE "su" or "yarn".
        if config["rope_scaling"]["short_factor"].is_array() {
            config["rope_scaling"]["rope_type"] = "longrope".into();
        }
        let mut decoder = DecoderConfig {
            names: Names {
                qkv: QkvNames::Fused("self_attn.qkv_proj"),
                mlp: MlpNames::Fused { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" },
                ..LLAMA
            },
            ..DecoderConfig::read_rotating(&config, rotary_share(&config, 1.0))?
        };
        decoder.set_windows(&config, |_| true);
        Ok(decoder)
    }
}
