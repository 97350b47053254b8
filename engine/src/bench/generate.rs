//! Generation: a prompt in one piece, then one token after another.

use super::{Spent, Subject, median, spent};
use crate::{
    Places, Result, compute, device,
    kernels::profile,
    memory,
    model::{Building, Cache, Store, build_as},
    random::Random,
};
use api::params::ComputeType;
use serde::Serialize;
use std::time::Instant;

/// What is asked of [`generate`].
#[derive(Clone, Debug)]
pub struct GenerateBench {
    pub subject: Subject,
    /// Tokens of the prompt, and tokens made after it.
    pub prompt: usize,
    pub new: usize,
    /// Times that both are measured, after once that is not.
    pub rounds: usize,
    pub compute_type: ComputeType,
    pub profile: bool,
}

/// What [`generate`] found.
#[derive(Clone, Debug, Serialize)]
pub struct GenerateReport {
    pub model: String,
    pub prompt: usize,
    pub new: usize,
    pub threads: usize,
    /// What was computed in, for example `bf16, AMX`.
    pub compute: String,
    /// Tokens of the prompt a second, and tokens made a second at batch 1: medians over the rounds.
    pub prompt_per_s: f64,
    pub decode_per_s: f64,
    /// Bytes.
    pub peak_memory: Option<u64>,
    /// Seconds from the start of the process to the first token.
    pub first_token_s: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
}

/// Makes tokens, always the likeliest, and measures. `begun` is when the process started.
pub fn generate(bench: &GenerateBench, places: &Places, begun: Instant) -> Result<GenerateReport> {
    let device = device::name(None)?;
    let (compute, _) = compute::pick_for(&device, bench.compute_type, "compute_type")?;
    let ready = bench.subject.open(places)?;
    let device_here = device::open(None)?;
    let how = Building { keeps_blocks: true, ..Building::new(ready.source(), &(), &device_here, compute.dtype()) };
    let model = build_as(&ready.config, &how, &mut Store::default())?;
    let mut random = Random::new(42, STREAM);
    let prompt: Vec<u32> = (0..bench.prompt.max(1)).map(|_| random.below(ready.config.vocab_size) as u32).collect();
    let (mut prompts, mut decodes, mut first, mut seconds) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for round in 0..=bench.rounds {
        if round == 1 && bench.profile {
            profile::enable();
        }
        let mut cache = Cache::new(ready.config.layers);
        let started = Instant::now();
        let mut next = likeliest(&model.step(&prompt, &mut cache)?);
        let read = started.elapsed().as_secs_f64();
        if round == 0 {
            first = begun.elapsed().as_secs_f64();
        }
        for _ in 0..bench.new {
            next = likeliest(&model.step(&[next], &mut cache)?);
        }
        let made = started.elapsed().as_secs_f64() - read;
        if round > 0 {
            prompts.push(prompt.len() as f64 / read.max(1e-9));
            decodes.push(bench.new as f64 / made.max(1e-9));
            seconds += read + made;
        }
    }
    Ok(GenerateReport {
        model: bench.subject.name().into(),
        prompt: prompt.len(),
        new: bench.new,
        threads: rayon::current_num_threads(),
        compute: compute::describe(&device, compute),
        prompt_per_s: median(&prompts),
        decode_per_s: median(&decodes),
        peak_memory: memory::peak(),
        first_token_s: first,
        profile: if bench.profile { spent(seconds) } else { Vec::new() },
    })
}

/// Stream of the random numbers that the prompt is made of.
const STREAM: u64 = 0xBE4D;

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(i, _)| i as u32)
}
