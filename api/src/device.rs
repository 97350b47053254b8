//! What a run computes on: `auto`, `cpu`, `cuda`, `cuda:N`.

use crate::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The argument `device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one, otherwise the CPU.
    #[default]
    Auto,
    Cpu,
    /// That GPU, or any.
    Cuda(Option<usize>),
}

/// A GPU that the CUDA worker found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// N of `cuda:N`.
    pub index: usize,
    pub name: String,
    /// Bytes in all.
    pub memory: u64,
}

/// What `lathe-cuda-worker --probe` prints: the GPUs, or why there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    pub gpus: Vec<Gpu>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl DeviceChoice {
    /// Of the argument, which may be missing or empty.
    pub fn read(asked: Option<&str>) -> Result<Self, Problem> {
        asked.unwrap_or_default().parse()
    }
}

impl FromStr for DeviceChoice {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let name = text.trim().to_ascii_lowercase();
        let number = name.strip_prefix("cuda:").map(|n| n.parse().ok().filter(|n| *n < 1024));
        match (name.as_str(), number) {
            ("" | "auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Some(n))) => Ok(Self::Cuda(Some(n))),
            _ => Err(Problem::new(
                "unknown_device",
                format!("device is {text:?}, which is none."),
                format!("device 为“{text}”，并非可用设备。"),
            )
            .hint("Known: auto, cpu, cuda, cuda:0, cuda:1 …", "可用：auto、cpu、cuda、cuda:0、cuda:1 ……")
            .field("device")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(n)) => write!(f, "cuda:{n}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for name in ["auto", "cpu", "cuda", "cuda:0", "cuda:15"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!(DeviceChoice::read(None).unwrap(), DeviceChoice::Auto);
        assert_eq!(DeviceChoice::read(Some("")).unwrap(), DeviceChoice::Auto);
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:99999999999999999999", "mps"] {
            assert_eq!(wrong.parse::<DeviceChoice>().unwrap_err().field.as_deref(), Some("device"), "{wrong}");
        }
    }
}
