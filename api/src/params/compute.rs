//! `compute_type`: the numbers that a run computes in, and LLaMA-Factory's switches for it.

use crate::{Problem, Problems, RunConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Numbers of matrix products and activations; what is trained stays in float32 except with `pure_bf16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum ComputeType {
    // The faster of bf16 and fp32 on this machine. (No doc comment: the schema would not be a plain list of words.)
    #[default]
    Auto,
    Bf16,
    Fp32,
    Fp16,
    PureBf16,
}

/// Arguments that say what `compute_type` says.
pub const COMPUTE_SWITCHES: [(&str, ComputeType); 3] =
    [("bf16", ComputeType::Bf16), ("fp16", ComputeType::Fp16), ("pure_bf16", ComputeType::PureBf16)];

impl ComputeType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::PureBf16 => "pure_bf16",
        }
    }

    /// What `config` asks for, and the argument that asks; `given` is its `compute_type`. A switch that is off asks for
    /// nothing. Two that contradict each other are a problem.
    pub fn asked(config: &RunConfig, given: Self) -> Result<(Self, &'static str), Problems> {
        let switches: Switches = super::read(config)?;
        let on = [switches.bf16, switches.fp16, switches.pure_bf16];
        let mut asked = vec![(given, "compute_type")];
        asked.extend(COMPUTE_SWITCHES.iter().zip(on).filter(|(_, on)| *on).map(|(switch, _)| (switch.1, switch.0)));
        asked.retain(|(kind, _)| *kind != Self::Auto);
        match asked.as_slice() {
            [] => Ok((Self::Auto, "compute_type")),
            [first, rest @ ..] => match rest.iter().find(|other| other.0 != first.0) {
                None => Ok(*first),
                Some(other) => Err(contradiction(*first, *other).into()),
            },
        }
    }
}

/// LLaMA-Factory's way to say it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Switches {
    bf16: bool,
    fp16: bool,
    pure_bf16: bool,
}

fn contradiction(a: (ComputeType, &str), b: (ComputeType, &str)) -> Problem {
    let shown = |(kind, key): (ComputeType, &str)| match key {
        "compute_type" => format!("compute_type {}", kind.name()),
        key => format!("{key}: true"),
    };
    let (a, b, field) = (shown(a), shown(b), b.1);
    Problem::new("two_compute_types", format!("{a} and {b} contradict each other."), format!("{a} 与 {b} 互相矛盾。"))
        .hint("Leave one of them.", "请只保留其中一个。")
        .field(field)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(value: serde_json::Value) -> Result<(ComputeType, &'static str), String> {
        let config: RunConfig = serde_json::from_value(value).unwrap();
        let train: super::super::TrainParams = super::super::read(&config).unwrap();
        ComputeType::asked(&config, train.compute_type).map_err(|p| p.0[0].message.clone())
    }

    #[test]
    fn switches_say_what_the_type_says() {
        assert_eq!(asked(json!({})).unwrap(), (ComputeType::Auto, "compute_type"));
        assert_eq!(asked(json!({"bf16": true})).unwrap(), (ComputeType::Bf16, "bf16"));
        assert_eq!(asked(json!({"bf16": "true", "compute_type": "auto"})).unwrap().0, ComputeType::Bf16);
        assert_eq!(asked(json!({"fp16": true, "bf16": false})).unwrap(), (ComputeType::Fp16, "fp16"));
        assert_eq!(asked(json!({"pure_bf16": true})).unwrap().0, ComputeType::PureBf16);
        assert_eq!(asked(json!({"compute_type": "fp32", "bf16": false})).unwrap().0, ComputeType::Fp32);
        let wrong = asked(json!({"compute_type": "fp32", "bf16": true})).unwrap_err();
        assert_eq!(wrong, "compute_type fp32 and bf16: true contradict each other.");
        assert!(asked(json!({"fp16": 3})).unwrap_err().starts_with("fp16 is 3"));
    }
}
