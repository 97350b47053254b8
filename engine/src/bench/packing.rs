//! Packing: the same rows one by one and packed together, their losses and how fast they are learned.

use super::{TrainBench, train, train::rows};
use crate::{
    Error, Places, Result, compute, device,
    model::{Store, build},
};
use serde::Serialize;
use std::time::Instant;

/// What [`packing`] found.
#[derive(Clone, Debug, Serialize)]
pub struct PackingReport {
    pub model: String,
    pub batch: usize,
    pub length: usize,
    pub threads: usize,
    /// What was computed in, for example `bf16, AMX`.
    pub compute: String,
    /// Rows, and samples that they were packed into.
    pub rows: usize,
    pub packed: usize,
    /// Rows whose losses were compared, the largest difference of a row's mean loss, and the mean of these losses.
    pub compared: usize,
    pub worst: f64,
    pub mean_loss: f64,
    /// Tokens a second, unpacked and packed, medians over the steps.
    pub unpacked_per_s: f64,
    pub packed_per_s: f64,
}

/// Compares `bench.data` unpacked and packed: first the loss of every row of the first packed samples, then steps with as
/// many samples in a batch. `begun` is when the process started.
pub fn packing(bench: &TrainBench, places: &Places, begun: Instant) -> Result<PackingReport> {
    let unpacked = train(&TrainBench { packing: false, ..bench.clone() }, places, begun)?;
    let packed = train(&TrainBench { packing: true, ..bench.clone() }, places, begun)?;

    let (compute, _) = compute::pick_for(&device::name(None)?, bench.compute_type, "compute_type")?;
    let ready = bench.subject.open(places)?;
    let (mut store, on) = (Store::default(), device::open(None)?);
    let model = build(&ready.config, &ready.source(), &(), &mut store, &on, compute.dtype())?;
    let single = rows(&TrainBench { packing: false, ..bench.clone() }, &ready, places)?;
    let (rows, together) = (single.len(), single.packed(bench.length));
    let (mut worst, mut sum, mut compared) = (0f64, 0.0, 0);
    for sample in 0..together.len().min(bench.steps.max(1)) {
        let batch = together.batch(&[sample as u32])?;
        let losses = model.losses(&batch)?;
        for (loss, alone) in losses.iter().zip(batch.apart()) {
            let targets = alone.targets.len().max(1) as f64;
            let (packed, alone) = (loss / targets, model.loss(&alone)? / targets);
            worst = worst.max((packed - alone).abs());
            sum += alone;
            compared += 1;
        }
    }
    if compared == 0 {
        return Err(Error::Internal("no rows to compare".into()));
    }
    Ok(PackingReport {
        model: unpacked.model,
        batch: bench.batch,
        length: bench.length,
        threads: unpacked.threads,
        compute: unpacked.compute,
        rows,
        packed: together.len(),
        compared,
        worst,
        mean_loss: sum / compared as f64,
        unpacked_per_s: unpacked.tokens_per_s,
        packed_per_s: packed.tokens_per_s,
    })
}
