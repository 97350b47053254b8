//! Where a job may run: on the CPU or on one of the GPUs, each of which takes one job at a time.

use api::{JobKind, RunConfig, device::DeviceChoice};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Cpu,
    Gpu(usize),
}

/// The slots that fit a job, the best first; none for a download or a teacher elsewhere, which need none. `gpus`: how many there are.
pub fn fitting(kind: JobKind, config: &RunConfig, gpus: usize) -> Vec<Slot> {
    let all = || (0..gpus).map(Slot::Gpu).collect();
    match (kind, DeviceChoice::read(config.text("device")).unwrap_or_default()) {
        (JobKind::Pull, _) => Vec::new(),
        (JobKind::Make, _) if config.text("base_url").is_some() && !answers_here(config) => Vec::new(),
        (JobKind::Train | JobKind::Make | JobKind::Evaluate, DeviceChoice::Cuda(Some(n))) if n < gpus => {
            vec![Slot::Gpu(n)]
        }
        (JobKind::Train | JobKind::Make | JobKind::Evaluate, DeviceChoice::Auto | DeviceChoice::Cuda(None))
            if gpus > 0 =>
        {
            all()
        }
        // An export is no work for a GPU. A device that isn't there is refused by the worker, with a reason.
        _ => vec![Slot::Cpu],
    }
}

/// Whether checkpoints of this computer answer beside the teacher elsewhere.
fn answers_here(config: &RunConfig) -> bool {
    config.get("checkpoints").is_some_and(|names| match names {
        Value::String(names) => !names.trim().is_empty(),
        Value::Array(names) => !names.is_empty(),
        _ => false,
    })
}

/// The slot that a running worker says it has: `cpu` or `cuda:N`.
pub fn named(device: &str) -> Option<Slot> {
    match device.parse().ok()? {
        DeviceChoice::Cpu => Some(Slot::Cpu),
        DeviceChoice::Cuda(Some(n)) => Some(Slot::Gpu(n)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_job_gets_the_device_that_it_asks_for() {
        let fit = |device: &str, gpus| {
            let mut config = RunConfig::default();
            config.set("device", device);
            fitting(JobKind::Train, &config, gpus)
        };
        let (cpu, both) = (vec![Slot::Cpu], vec![Slot::Gpu(0), Slot::Gpu(1)]);
        for device in ["", "auto", "cuda"] {
            assert_eq!((fit(device, 0), fit(device, 2)), (cpu.clone(), both.clone()), "{device:?}");
        }
        assert_eq!(fitting(JobKind::Train, &RunConfig::default(), 2), both);
        assert_eq!(fitting(JobKind::Export, &RunConfig::default(), 2), cpu);
        assert_eq!(fitting(JobKind::Make, &RunConfig::default(), 2), both);
        let mut elsewhere = RunConfig::default();
        elsewhere.set("base_url", "http://localhost/v1");
        assert_eq!(fitting(JobKind::Make, &elsewhere, 2), []);
        elsewhere.set("checkpoints", vec!["starter"]);
        assert_eq!(fitting(JobKind::Make, &elsewhere, 2), both);
        assert_eq!(fit("cpu", 2), cpu);
        assert_eq!(fit("cuda:1", 2), [Slot::Gpu(1)]);
        assert_eq!(fit("cuda:2", 2), cpu);
        assert_eq!((named("cuda:1"), named("cpu"), named("?")), (Some(Slot::Gpu(1)), Some(Slot::Cpu), None));
    }
}
