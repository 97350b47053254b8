//! The CUDA driver: which GPUs there are.

#![allow(unsafe_code)]

use api::{
    Problem,
    device::{Gpu, Probe},
};
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, result::device};

/// The GPUs in the driver's order. Makes no context, so that it is quick and takes no memory on them.
pub fn probe() -> Probe {
    match gpus() {
        Ok(gpus) if gpus.is_empty() => Probe { gpus, problem: Some(problem("the driver knows no GPU")) },
        Ok(gpus) => Probe { gpus, problem: None },
        Err(DriverError(code)) => {
            // `CUDA_ERROR_NO_DEVICE` → `no device`
            let name = format!("{code:?}");
            let name = name.trim_start_matches("CUDA_ERROR_").to_lowercase().replace('_', " ");
            Probe { gpus: Vec::new(), problem: Some(problem(&format!("the driver says {name} ({})", code as u32))) }
        }
    }
}

fn gpus() -> Result<Vec<Gpu>, DriverError> {
    result::init()?;
    (0..device::get_count()?)
        .map(|i| {
            let gpu = device::get(i)?;
            // SAFETY: `gpu` was just given by the driver.
            let memory = unsafe { device::total_mem(gpu) }? as u64;
            Ok(Gpu { index: i as usize, name: device::get_name(gpu)?, memory })
        })
        .collect()
}

fn problem(why: &str) -> Problem {
    Problem::new("no_cuda_device", format!("No GPU can be used: {why}."), format!("没有可用的显卡：{why}。")).hint(
        "Check with nvidia-smi that the NVIDIA driver works and is of version 580 or newer (CUDA 13).",
        "请用 nvidia-smi 确认 NVIDIA 驱动正常，且版本不低于 580（CUDA 13）。",
    )
}
