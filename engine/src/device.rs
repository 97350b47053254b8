//! What a run computes on: the CPU, or in a worker that is built for it, a GPU.

use crate::{Error, Result};
use api::{
    Problem, RunConfig,
    device::{DeviceChoice, Probe},
};
use candle_core::Device;
use std::sync::OnceLock;

static ASSIGNED: OnceLock<DeviceChoice> = OnceLock::new();

/// What this process computes on where a run doesn't ask for the CPU: the queue knows which GPU is free.
pub fn assign(name: &str) -> Result<()> {
    let choice = name.parse::<DeviceChoice>()?;
    ASSIGNED.set(choice).map_err(|_| Error::Internal("the device was assigned twice".into()))
}

/// The device that `asked` comes to, as plans show it: `cpu` or `cuda:N`.
pub fn name(asked: Option<&str>) -> Result<String> {
    let choice = match DeviceChoice::read(asked)? {
        one @ DeviceChoice::Cuda(Some(_)) if ASSIGNED.get().is_some() => one,
        asked => resolve(asked, ASSIGNED.get().copied(), || !probe().gpus.is_empty()),
    };
    match choice {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok("cpu".into()),
        DeviceChoice::Cuda(_) if !cfg!(feature = "cuda") && ASSIGNED.get().is_none() => Err(no_gpu(choice).into()),
        DeviceChoice::Cuda(n) => Ok(DeviceChoice::Cuda(n.or(Some(0))).to_string()),
    }
}

/// Opens the device that `asked` comes to.
pub fn open(asked: Option<&str>) -> Result<Device> {
    match resolve(DeviceChoice::read(asked)?, ASSIGNED.get().copied(), || !probe().gpus.is_empty()) {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(n) => gpu(n.unwrap_or(0)),
    }
}

/// What of a run's settings this version can do on the CPU only.
pub fn check(config: &RunConfig, device: &Device) -> Result<()> {
    let dropout = config.get("lora_dropout").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    if device.is_cpu() || dropout <= 0.0 {
        return Ok(());
    }
    Err(Problem::new(
        "gpu_dropout",
        format!("lora_dropout is {dropout}, but this version has no dropout on GPUs."),
        format!("lora_dropout 为 {dropout}，但此版本在显卡上不支持 dropout。"),
    )
    .hint("Set lora_dropout to 0, or device to cpu.", "请将 lora_dropout 设为 0，或将 device 设为 cpu。")
    .field("lora_dropout")
    .into())
}

/// The GPUs that this program can compute on, or why there are none. Without CUDA built in it finds none.
pub fn probe() -> Probe {
    #[cfg(feature = "cuda")]
    return crate::kernels::cuda::probe();
    #[cfg(not(feature = "cuda"))]
    Probe { gpus: Vec::new(), problem: Some(no_gpu(DeviceChoice::Cuda(None))) }
}

fn resolve(asked: DeviceChoice, assigned: Option<DeviceChoice>, has_gpu: impl Fn() -> bool) -> DeviceChoice {
    match (asked, assigned) {
        (DeviceChoice::Cpu, _) => DeviceChoice::Cpu,
        (_, Some(assigned)) => assigned,
        (DeviceChoice::Auto, None) if has_gpu() => DeviceChoice::Cuda(None),
        (asked, None) => asked,
    }
}

#[cfg(feature = "cuda")]
fn gpu(n: usize) -> Result<Device> {
    let found = probe();
    if let Some(problem) = found.problem {
        return Err(problem.into());
    }
    if n >= found.gpus.len() {
        return Err(no_gpu(DeviceChoice::Cuda(Some(n))).into());
    }
    Ok(Device::new_cuda(n)?)
}

#[cfg(not(feature = "cuda"))]
fn gpu(n: usize) -> Result<Device> {
    Err(no_gpu(DeviceChoice::Cuda(Some(n))).into())
}

fn no_gpu(choice: DeviceChoice) -> Problem {
    Problem::new(
        "no_gpu",
        format!("device is {choice}, but Lathe finds no such GPU here."),
        format!("device 为 {choice}，但 Lathe 在此找不到这样的显卡。"),
    )
    .hint(
        "Set device to cpu or leave it empty. `lathe env` says which GPUs there are, or what is missing.",
        "请将 device 设为 cpu 或留空。`lathe env` 会列出显卡，或说明缺少什么。",
    )
    .field("device")
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceChoice::{Auto, Cpu, Cuda};

    #[test]
    fn the_queue_chooses_the_gpu_and_the_person_the_cpu() {
        let (with, without) = (|| true, || false);
        assert_eq!(resolve(Auto, None, without), Auto);
        assert_eq!(resolve(Auto, None, with), Cuda(None));
        assert_eq!(resolve(Cpu, Some(Cuda(Some(1))), with), Cpu);
        assert_eq!(resolve(Auto, Some(Cuda(Some(1))), with), Cuda(Some(1)));
        assert_eq!(resolve(Cuda(None), Some(Cuda(Some(1))), with), Cuda(Some(1)));
        assert_eq!(resolve(Cuda(Some(2)), None, with), Cuda(Some(2)));
    }
}
