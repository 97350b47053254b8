//! Steps of a policy: answers sampled together with the present weights, and an update that learns from them, as the stage
//! `grpo` makes it.

use super::{Subject, median, train};
use crate::{
    Places, Result, compute, device,
    generate::batch::{Ask, answers},
    memory,
    model::{Attach, Grads, Store, build},
    random::{Random, mix},
    rewards::Attempt,
    stages::online::{Clip, Episode, Level, learn},
    train::{AdamW, Optimizer, clip},
};
use api::params::{ComputeType, GenerateParams, TrainParams};
use serde::Serialize;
use std::{sync::atomic::AtomicBool, time::Instant};

/// What is asked of [`rollouts`].
#[derive(Clone, Debug)]
pub struct RolloutBench {
    pub subject: Subject,
    /// Prompts of a step, and answers to each.
    pub prompts: usize,
    pub answers: usize,
    /// Tokens of a prompt, and of an answer, which never ends before.
    pub prompt: usize,
    pub new: usize,
    /// Steps that are measured, after one that is not.
    pub steps: usize,
    /// Answers that are learned from together.
    pub batch: usize,
    pub rank: usize,
    pub compute_type: ComputeType,
}

/// What [`rollouts`] found.
#[derive(Clone, Debug, Serialize)]
pub struct RolloutReport {
    pub model: String,
    pub prompts: usize,
    pub answers: usize,
    pub prompt: usize,
    pub new: usize,
    pub threads: usize,
    /// What was computed in, for example `bf16, AMX`.
    pub compute: String,
    /// Tokens sampled a second while sampling, with all answers of a step together and one by one: medians over the steps.
    pub rollout_tokens_per_s: f64,
    pub alone_tokens_per_s: f64,
    pub step_s: f64,
    /// Of a step's time, what sampling takes.
    pub generation_share: f64,
    /// Bytes.
    pub peak_memory: Option<u64>,
}

/// Makes steps and measures them.
pub fn rollouts(bench: &RolloutBench, places: &Places) -> Result<RolloutReport> {
    let device = device::name(None)?;
    let (compute, _) = compute::pick_for(&device, bench.compute_type, "compute_type")?;
    let ready = bench.subject.open(places)?;
    let tuning = train::lora(bench.rank)?;
    let (mut store, attach): (Store, &dyn Attach) = (Store::default(), tuning.as_ref());
    let model = build(&ready.config, &ready.source(), attach, &mut store, &device::open(None)?, compute.dtype())?;
    let params = TrainParams { learning_rate: 1e-5, ..TrainParams::default() };
    let mut optimizer = AdamW::new(&params);
    let sampling = GenerateParams {
        max_new_tokens: bench.new,
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        ..GenerateParams::default()
    };
    let (go_on, mut random) = (AtomicBool::new(false), Random::new(42, STREAM));
    let bounds = Clip { low: 0.2, high: 0.2, delta: None, level: Level::Token, beta: 0.0 };
    let (mut rates, mut alone, mut seconds, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for step in 0..=bench.steps as u64 {
        let asks: Vec<Ask> = (0..bench.prompts as u64)
            .map(|i| Ask {
                prompt: (0..bench.prompt).map(|_| random.below(ready.config.vocab_size) as u32).collect(),
                seeds: (0..bench.answers as u64).map(|j| mix((step << 40) | (i << 20) | j)).collect(),
            })
            .collect();
        let started = Instant::now();
        let said = answers(&model, &asks, &[], &sampling, &go_on)?.unwrap_or_default();
        let sampled = started.elapsed().as_secs_f64();
        let of = |(ask, said): (&Ask, Vec<crate::generate::batch::Answer>)| {
            let prompt_ids = ask.prompt.clone();
            said.into_iter().enumerate().map(move |(i, answer)| Episode {
                advantages: vec![if i % 2 == 0 { 1.0 } else { -1.0 }; answer.ids.len()],
                attempt: Attempt { prompt_ids: prompt_ids.clone(), ids: answer.ids, ..Attempt::default() },
                ..Episode::default()
            })
        };
        let mut episodes: Vec<Episode> = asks.iter().zip(said).flat_map(of).collect();
        let tokens: usize = episodes.iter().map(Episode::len).sum();
        let (mut grads, weight) = (Grads::default(), 1.0 / tokens.max(1) as f64);
        for (i, some) in episodes.chunks_mut(bench.batch.max(1)).enumerate() {
            let weights = vec![weight; some.len()];
            learn(&model, some, &weights, &bounds, 1.0, mix(mix(step) ^ i as u64), &mut grads)?;
        }
        let (_, factor) = clip(&grads, params.max_grad_norm)?;
        optimizer.step(&store, &grads, params.learning_rate, factor)?;
        let took = started.elapsed().as_secs_f64();
        // One of them by itself, for comparison.
        let single = Ask { prompt: asks[0].prompt.clone(), seeds: vec![asks[0].seeds[0]] };
        let started = Instant::now();
        answers(&model, &[single], &[], &sampling, &go_on)?;
        if step > 0 {
            alone.push(bench.new as f64 / started.elapsed().as_secs_f64().max(1e-9));
            rates.push(tokens as f64 / sampled.max(1e-9));
            shares.push(sampled / took.max(1e-9));
            seconds.push(took);
        }
    }
    Ok(RolloutReport {
        model: bench.subject.name().into(),
        prompts: bench.prompts,
        answers: bench.answers,
        prompt: bench.prompt,
        new: bench.new,
        threads: rayon::current_num_threads(),
        compute: compute::describe(&device, compute),
        rollout_tokens_per_s: median(&rates),
        alone_tokens_per_s: median(&alone),
        step_s: median(&seconds),
        generation_share: median(&shares),
        peak_memory: memory::peak(),
    })
}

/// Stream of the random numbers that prompts are made of.
const STREAM: u64 = 0xBE4E;
