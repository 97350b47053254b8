//! `lathe version`, `lathe catalog` and `lathe env`.

use crate::{
    environment::Environment,
    gpu,
    outcome::{Failure, Outcome},
    say::Say,
};
use api::params::ComputeType;
use engine::compute;
use serde_json::json;

pub fn version(say: &Say) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    say.result(&json!({ "version": version }), || format!("lathe {version}"));
    Ok(())
}

/// All that there is to choose from, always as JSON.
pub fn catalog(say: &Say) -> Outcome {
    say.json(&engine::catalog::catalog());
    Ok(())
}

/// Machine and places. No secrets: of tokens only whether they are set.
pub fn env(environment: &Environment, say: &Say) -> Outcome {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory();
    let (compute, _) = compute::pick(ComputeType::Auto, "").map_err(|e| Failure::failed(e.into_problem()))?;
    let found = gpu::probe();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cores": cores,
        "instructions": engine::kernels::cpu::instructions().name(),
        "compute_type": compute::name(compute),
        "memory_total": memory,
        "home": environment.home,
        "hf_home": environment.hub.home,
        "hf_endpoint": environment.hub.endpoint,
        "hf_offline": environment.hub.offline,
        "hf_token_set": environment.hub.token.is_some(),
        "token_set": environment.token.is_some(),
        "cuda_worker": gpu::worker(),
        "gpus": found.gpus,
        "gpu_problem": found.problem.as_ref().map(|p| format!("{} {}", p.message_in(&say.language), p.hint_in(&say.language))),
    });
    say.result(&value, || {
        let rows = value.as_object().into_iter().flatten();
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
        rows.map(|(key, v)| format!("{key:<14} {}", text(v))).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

/// Bytes of memory in all.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?;
    kib.parse::<u64>().ok().map(|kib| kib * 1024)
}
