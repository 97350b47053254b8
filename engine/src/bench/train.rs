//! Training steps: forward, backward, clipping and AdamW, as a run makes them.

use super::{Spent, Subject, median, spent, subject::Ready};
use crate::{
    Places, Result,
    adapters::{Tuning, adapter},
    base, compute,
    data::{self, Cache, LoadOptions, Loader, Needs, Reading, Samples, Sequence, SpoolWriter},
    device,
    kernels::profile::{self, time},
    memory,
    model::{Attach, Batch, Building, Grads, Store, build_as},
    prepare::encoder,
    random::{Random, mix},
    train::{Order, Sampler, clip, optimizers},
};
use api::{
    Problem, RunConfig,
    params::{ComputeType, DataParams, Optimizer, OptimizerParams, QuantizationParams, TrainParams},
};
use serde::Serialize;
use std::{path::PathBuf, time::Instant};

/// What is asked of [`train`].
#[derive(Clone, Debug)]
pub struct TrainBench {
    pub subject: Subject,
    /// Rows in a step, and tokens in a row (with `data`: at most).
    pub batch: usize,
    pub length: usize,
    /// Steps that are measured, after those that are not.
    pub steps: usize,
    pub warmup: usize,
    pub compute_type: ComputeType,
    /// A tuning type, or `none`: no parameter is trained.
    pub adapter: String,
    pub rank: usize,
    /// Bits of the base, if it is quantised.
    pub quantization_bit: Option<u32>,
    pub optim: Optimizer,
    pub recompute: bool,
    /// A file of rows; without it rows are full, of random tokens.
    pub data: Option<PathBuf>,
    /// Packs the rows of `data` together up to `length` tokens.
    pub packing: bool,
    pub profile: bool,
}

/// What [`train`] found.
#[derive(Clone, Debug, Serialize)]
pub struct TrainReport {
    pub model: String,
    pub adapter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization_bit: Option<u32>,
    pub batch: usize,
    pub length: usize,
    pub recompute: bool,
    pub threads: usize,
    /// What was computed in, for example `bf16, AMX`.
    pub compute: String,
    pub trainable: u64,
    /// Medians over the steps.
    pub tokens_per_s: f64,
    pub step_ms: f64,
    /// Of all measured steps.
    pub tokens: usize,
    /// Bytes.
    pub peak_memory: Option<u64>,
    /// Seconds from the start of the process to the end of the first step.
    pub first_step_s: f64,
    pub first_loss: f64,
    pub last_loss: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<Spent>,
}

/// Makes steps and measures them. `begun` is when the process started.
pub fn train(bench: &TrainBench, places: &Places, begun: Instant) -> Result<TrainReport> {
    let device = device::name(None)?;
    let (compute, _) = compute::pick_for(&device, bench.compute_type, "compute_type")?;
    let ready = bench.subject.open(places)?;
    let tuning = tuning(bench)?;
    let attach: &dyn Attach = match &tuning {
        Some(tuning) => tuning.as_ref(),
        None => &(),
    };
    let mut store = Store::default();
    let quantisation = QuantizationParams { quantization_bit: bench.quantization_bit, ..QuantizationParams::default() };
    if let Some(tuning) = &tuning {
        base::check(&quantisation, tuning.as_ref(), &ready.config, &bench.adapter)?;
    }
    let (source, on, quantisation) = (ready.source(), device::open(None)?, base::quantisation(&quantisation));
    let how =
        Building { quantisation, recompute: bench.recompute, ..Building::new(source, attach, &on, compute.dtype()) };
    let model = build_as(&ready.config, &how, &mut store)?;
    let rows = rows(bench, &ready, places)?;
    let sampler =
        Sampler { samples: rows.len(), batch: bench.batch, accumulation: 1, seed: SEED, order: Order::Random };
    let params = TrainParams { learning_rate: 1e-4, optim: bench.optim, ..TrainParams::default() };
    let mut optimizer = optimizers::start(&params, &OptimizerParams::default())?;
    let (mut seconds, mut rates, mut losses, mut tokens, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0, 0.0);
    for (step, indices) in sampler.steps(0).take(bench.warmup + bench.steps).enumerate() {
        let batch: Batch = rows.batch(&indices.concat())?;
        if step == bench.warmup && bench.profile {
            profile::enable();
        }
        let started = Instant::now();
        let (mut grads, targets) = (Grads::default(), batch.targets.len().max(1));
        let sum = model.learn(&batch, 1.0 / targets as f32, mix(SEED ^ mix(step as u64)), &mut grads)?;
        let (_, factor) = clip(&grads, params.max_grad_norm)?;
        time("optimizer", || optimizer.step(&store, &grads, params.learning_rate, factor))?;
        optimizer.left_finite(&store)?;
        let took = started.elapsed().as_secs_f64();
        losses.push(sum / targets as f64);
        if step == 0 {
            first = begun.elapsed().as_secs_f64();
        }
        if step >= bench.warmup {
            seconds.push(took);
            rates.push(batch.ids.len() as f64 / took.max(1e-9));
            tokens += batch.ids.len();
        }
    }
    Ok(TrainReport {
        model: bench.subject.name().into(),
        adapter: bench.adapter.clone(),
        quantization_bit: bench.quantization_bit,
        batch: bench.batch,
        length: bench.length,
        recompute: bench.recompute,
        threads: rayon::current_num_threads(),
        compute: compute::describe(&device, compute),
        trainable: store.trainable().map(|p| p.get().elem_count() as u64).sum(),
        tokens_per_s: median(&rates),
        step_ms: median(&seconds) * 1e3,
        tokens,
        peak_memory: memory::peak(),
        first_step_s: first,
        first_loss: losses.first().copied().unwrap_or_default(),
        last_loss: losses.last().copied().unwrap_or_default(),
        profile: if bench.profile { spent(seconds.iter().sum()) } else { Vec::new() },
    })
}

const SEED: u64 = 42;
/// Stream of the random numbers that random rows are made of.
const STREAM: u64 = 0xBE4C;

fn tuning(bench: &TrainBench) -> Result<Option<Box<dyn Tuning>>> {
    if bench.adapter == "none" {
        return Ok(None);
    }
    if bench.adapter == "lora" {
        return lora(bench.rank).map(Some);
    }
    Ok(Some(adapter(&bench.adapter)?.start(&RunConfig::default(), None)?))
}

/// A LoRA of this width on all linears.
pub(super) fn lora(rank: usize) -> Result<Box<dyn Tuning>> {
    let mut config = RunConfig::default();
    config.set("lora_rank", rank as u64);
    Ok(adapter("lora")?.start(&config, None)?)
}

/// The rows to train on: those of the file, or enough random ones for a few batches.
pub(super) fn rows(bench: &TrainBench, ready: &Ready, places: &Places) -> Result<Samples> {
    match (&bench.data, &ready.opened) {
        (Some(file), Some(opened)) => {
            let (registry, name) = data::preview::one_file(file)?;
            let (encoder, cache) = (encoder(opened, &DataParams::default())?, Cache::new(places.tokens()));
            let options = LoadOptions { cutoff_len: bench.length, ..LoadOptions::plain(Needs::Instructions) };
            let (reading, progress) = (Reading::Whole, &mut |_, _| Ok(()));
            let mut loader = Loader { registry: &registry, encoder: &encoder, cache: &cache, reading, progress };
            let samples = loader.load(&[name], &options)?.samples;
            Ok(if bench.packing { samples.packed(bench.length) } else { samples })
        }
        (Some(_), None) => Err(Problem::new(
            "data_without_tokenizer",
            "A shape has no tokenizer to read data with.",
            "仅有结构时没有分词器，无法读取数据。",
        )
        .hint("Give --model instead of --shape.", "请用 --model 代替 --shape。")
        .field("data")
        .into()),
        (None, _) => {
            let mut spool = SpoolWriter::nameless(&places.home)?;
            let mut random = Random::new(SEED, STREAM);
            for _ in 0..(4 * bench.batch).max(8) {
                let row = (0..bench.length).map(|_| random.below(ready.config.vocab_size) as u32);
                spool.push(&Sequence::all(row.collect()))?;
            }
            Samples::whole(spool)
        }
    }
}
