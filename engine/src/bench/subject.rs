//! What is measured: a model of this computer, or random weights of a known shape.

use crate::{
    Places, Result,
    entry::unknown,
    model::{DecoderConfig, Source, families::family},
    prepare::{Opened, open},
};
use api::params::ModelParams;
use serde_json::{Value, json};

/// What a benchmark computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// As `model_name_or_path` names it.
    Model(String),
    /// One of [`SHAPES`], with random weights.
    Shape(String),
}

/// Names of the known shapes.
pub const SHAPES: [&str; 3] = ["smollm2-135m", "qwen2.5-1.5b", "llama-3.1-8b"];

/// A subject with its configuration read.
pub(super) struct Ready {
    pub config: DecoderConfig,
    pub opened: Option<Opened>,
}

impl Subject {
    pub fn name(&self) -> &str {
        match self {
            Self::Model(name) | Self::Shape(name) => name,
        }
    }

    pub(super) fn open(&self, places: &Places) -> Result<Ready> {
        match self {
            Self::Model(name) => {
                let params = ModelParams { model_name_or_path: name.clone(), ..ModelParams::default() };
                let opened = open(&params, places)?;
                Ok(Ready { config: opened.config.decoder()?.clone(), opened: Some(opened) })
            }
            Self::Shape(name) => {
                let raw = shape(name)?;
                Ok(Ready { config: family(&raw)?.config(&raw)?, opened: None })
            }
        }
    }
}

impl Ready {
    pub fn source(&self) -> Source<'_> {
        match &self.opened {
            Some(opened) => Source::Files(&opened.files),
            None => Source::Random { seed: 1 },
        }
    }
}

/// The config.json of a shape, as its model has it.
fn shape(name: &str) -> Result<Value> {
    Ok(match name {
        "smollm2-135m" => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true, "initializer_range": 0.041666666666666664
        }),
        "qwen2.5-1.5b" => json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
            "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
            "max_position_embeddings": 32768, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true, "initializer_range": 0.02
        }),
        "llama-3.1-8b" => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
            "max_position_embeddings": 131072, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "initializer_range": 0.02,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}
        }),
        other => {
            return Err(unknown("unknown_shape", ["shape", "结构"], other, SHAPES.into_iter()).field("shape").into());
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_parameters_of_their_models() {
        let places = Places { home: "/".into(), hub_cache: "/".into() };
        let count = |name: &str| Subject::Shape(name.into()).open(&places).map(|ready| ready.config.parameters());
        let counts = SHAPES.map(|name| count(name).unwrap());
        assert_eq!(counts, [134_515_008, 1_543_714_304, 8_030_261_248]);
        assert_eq!(count("smollm").unwrap_err().into_problem().hint.split(':').next(), Some("Known"));
    }
}
