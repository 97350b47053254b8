//! What the processor can do, found out at run time.

use crate::Result;
use api::Problem;
use candle_core::DType;
use std::sync::OnceLock;

/// Instruction sets for matrix products, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Tiles of bf16 (Intel, from Sapphire Rapids on).
    Amx,
    Avx512Bf16,
    Avx512,
    /// With FMA.
    Avx2,
    Neon,
    Portable,
}

impl Instructions {
    const ALL: [Self; 6] = [Self::Amx, Self::Avx512Bf16, Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Whether products of bf16 are faster than those of float32.
    pub fn bf16(self) -> bool {
        matches!(self, Self::Amx | Self::Avx512Bf16)
    }

    fn present(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Self::Avx2.present()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512bf16") && Self::Avx512.present(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::available() && Self::Avx512Bf16.present(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// The type that matrix products are computed in; sums are float32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    Bf16,
    F32,
}

impl Compute {
    pub fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F32 => DType::F32,
        }
    }
}

static CHOSEN: OnceLock<Instructions> = OnceLock::new();

/// The best that this processor has, or what [`limit`] chose.
pub fn instructions() -> Instructions {
    #[cfg(test)]
    if let (None, Ok(name)) = (CHOSEN.get(), std::env::var("LATHE_CPU")) {
        // For the tests of each form: `LATHE_CPU=avx2 cargo test -p engine --lib`.
        limit(&name).ok();
    }
    *CHOSEN.get_or_init(|| Instructions::ALL.into_iter().find(|i| i.present()).unwrap_or(Instructions::Portable))
}

/// Computes with no better instructions than these from now on; for comparisons. Must come before the first
/// computation.
pub fn limit(name: &str) -> Result<()> {
    let known = Instructions::ALL.map(Instructions::name).join(", ");
    let wanted = Instructions::ALL.into_iter().find(|i| i.name() == name).ok_or_else(|| {
        Problem::new(
            "unknown_instructions",
            format!("LATHE_CPU is {name:?}; known are {known}."),
            format!("LATHE_CPU 为 {name:?}；可用 {known}。"),
        )
        .hint("Use one of these or leave it unset.", "请使用其中之一，或不设置。")
    })?;
    if !wanted.present() {
        return Err(Problem::new(
            "missing_instructions",
            format!("This processor has no {name}."),
            format!("此处理器不支持 {name}。"),
        )
        .hint("Leave LATHE_CPU unset to use the best that it has.", "不设置 LATHE_CPU 即可使用其最佳指令集。")
        .into());
    }
    CHOSEN.set(wanted).map_err(|_| crate::Error::Internal("LATHE_CPU came after the first computation".into()))
}
