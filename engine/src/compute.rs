//! What a run computes in: from what was asked for to what this machine has.

use crate::{
    Result,
    kernels::cpu::{Compute, Instructions, instructions},
};
use api::{Problem, params::ComputeType};

/// What a run on the CPU computes in, and a note where that isn't what was asked for. `field` is the argument that asked.
pub fn pick(asked: ComputeType, field: &str) -> Result<(Compute, Option<Problem>)> {
    pick_on(instructions(), asked, field)
}

/// What a run computes in on a device as plans name it: `cpu` or `cuda:N`.
pub fn pick_for(device: &str, asked: ComputeType, field: &str) -> Result<(Compute, Option<Problem>)> {
    match asked {
        _ if device == "cpu" => pick(asked, field),
        ComputeType::Auto | ComputeType::Bf16 => Ok((Compute::Bf16, None)),
        ComputeType::Fp32 => Ok((Compute::F32, None)),
        ComputeType::Fp16 | ComputeType::PureBf16 => Err(not_yet(asked, field).into()),
    }
}

/// The word of `compute_type` for it.
pub fn name(compute: Compute) -> &'static str {
    match compute {
        Compute::Bf16 => "bf16",
        Compute::F32 => "fp32",
    }
}

/// Numbers and what computes them in words, for example `bf16, AMX`. The device is named as in plans.
pub fn describe(device: &str, compute: Compute) -> String {
    format!("{}, {}", name(compute), if device == "cpu" { title(instructions()) } else { "CUDA" })
}

/// The best instructions that are used, for example `AVX-512`.
pub fn processor() -> &'static str {
    title(instructions())
}

fn title(instructions: Instructions) -> &'static str {
    match instructions {
        Instructions::Amx => "AMX",
        Instructions::Avx512Bf16 => "AVX-512 bf16",
        Instructions::Avx512 => "AVX-512",
        Instructions::Avx2 => "AVX2",
        Instructions::Neon => "NEON",
        Instructions::Portable => "no vector instructions",
    }
}

fn pick_on(instructions: Instructions, asked: ComputeType, field: &str) -> Result<(Compute, Option<Problem>)> {
    Ok(match asked {
        ComputeType::Auto if instructions.bf16() => (Compute::Bf16, None),
        ComputeType::Auto | ComputeType::Fp32 => (Compute::F32, None),
        ComputeType::Bf16 if instructions.bf16() => (Compute::Bf16, None),
        ComputeType::Bf16 => (Compute::F32, Some(no_bf16(instructions, field))),
        ComputeType::Fp16 | ComputeType::PureBf16 => return Err(gpu_only(asked, field).into()),
    })
}

fn no_bf16(instructions: Instructions, field: &str) -> Problem {
    let best = title(instructions);
    Problem::new(
        "no_bf16",
        format!("This processor ({best}) does not compute in bf16; the run computes in fp32."),
        format!("此处理器（{best}）不支持 bf16 计算，将以 fp32 计算。"),
    )
    .hint("The result is at least as exact.", "结果精度不低于所求。")
    .field(field)
}

fn not_yet(asked: ComputeType, field: &str) -> Problem {
    let asked = asked.name();
    Problem::new(
        "gpu_compute_type",
        format!("This version does not compute in {asked} on GPUs."),
        format!("此版本在显卡上不支持 {asked} 计算。"),
    )
    .hint("Set compute_type to auto, bf16 or fp32.", "请将 compute_type 设为 auto、bf16 或 fp32。")
    .field(field)
}

fn gpu_only(asked: ComputeType, field: &str) -> Problem {
    let asked = asked.name();
    Problem::new(
        "gpu_compute_type",
        format!("{asked} needs a GPU, and this run is on the CPU."),
        format!("{asked} 需要 GPU，而此运行使用 CPU。"),
    )
    .hint("Set compute_type to auto, bf16 or fp32.", "请将 compute_type 设为 auto、bf16 或 fp32。")
    .field(field)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_decides_what_is_picked() {
        let picked = |on, asked| pick_on(on, asked, "compute_type").unwrap();
        for on in [Instructions::Amx, Instructions::Avx512Bf16] {
            assert_eq!(picked(on, ComputeType::Auto), (Compute::Bf16, None));
            assert_eq!(picked(on, ComputeType::Bf16), (Compute::Bf16, None));
            assert_eq!(picked(on, ComputeType::Fp32), (Compute::F32, None));
        }
        for on in [Instructions::Avx512, Instructions::Avx2, Instructions::Neon, Instructions::Portable] {
            assert_eq!(picked(on, ComputeType::Auto), (Compute::F32, None));
            let (compute, note) = picked(on, ComputeType::Bf16);
            assert_eq!((compute, note.unwrap().code.as_str()), (Compute::F32, "no_bf16"));
        }
        for asked in [ComputeType::Fp16, ComputeType::PureBf16] {
            let refused = pick_on(Instructions::Amx, asked, "fp16").unwrap_err().into_problem();
            assert_eq!((refused.code.as_str(), refused.field.as_deref()), ("gpu_compute_type", Some("fp16")));
        }
    }
}
