//! Two steps of a run, made and thrown away: what the formulas can't know of a model on this machine. What was measured is
//! kept by what it depends on, and corrects the estimates of all runs of that kind.

use super::{Load, by_part};
use crate::{
    Error, Places, Result,
    data::Samples,
    files::{ModelFiles, digest, write_atomically},
    make::Connect,
    memory,
    model::ModelConfig,
    prepare::{Prepared, plan, prepare},
    provenance::Machine,
    run::run_prepared,
    train::{Order, Sampler},
};
use api::{Event, JobKind, Plan, RunConfig, job::Spec, params::TrainParams, plan::Part};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Instant,
};

/// Micro-batches of a measured step at most: enough to share the cost of an update as the run does.
const MOST: usize = 4;
/// Steps of a run that are looked at to find its largest and a usual micro-batch.
const LOOKED_AT: u64 = 50_000;

/// Bytes that the allocator comes to hold on to behind the first steps, as batches of all sizes pass.
const HELD: u64 = 48_000_000;

/// What two steps of a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The most bytes that were held, and what the formula says of these steps; 0 on a GPU, whose memory isn't seen here.
    peak: u64,
    formula: u64,
    /// Seconds from the beginning of loading to the first step, and of a usual step with its tokens.
    loading: f64,
    step: f64,
    tokens: u64,
}

impl Measured {
    /// What the formula's bytes are to be multiplied with.
    pub fn factor(&self) -> f64 {
        if self.peak == 0 || self.formula == 0 { 1.0 } else { self.peak as f64 / self.formula as f64 }
    }

    /// Seconds of a run that goes through so many tokens; of one that samples its answers itself, of so many steps.
    pub fn seconds(&self, load: &Load, steps: u64) -> f64 {
        let steps = match load.sampled.0 {
            0 => load.total_tokens as f64 / self.tokens.max(1) as f64,
            _ => steps as f64,
        };
        self.loading + steps * self.step
    }

    /// The parts of the memory as they would have been measured.
    pub fn correct(&self, parts: &mut [Part]) {
        parts.iter_mut().for_each(|part| part.bytes = (part.bytes as f64 * self.factor()) as u64);
    }
}

/// What the estimate of a run rests on, and the place of what was measured of its kind.
#[derive(Clone, Debug)]
pub struct Estimated {
    pub load: Load,
    /// Bytes of models besides the trained one.
    pub others: u64,
    file: PathBuf,
}

impl Estimated {
    /// Its kind is all that the cost of a token depends on, besides how many there are.
    pub fn new(
        load: Load,
        others: u64,
        files: &ModelFiles,
        train: &TrainParams,
        machine: &Machine,
        places: &Places,
    ) -> Self {
        let (path, bytes) = (files.path().display().to_string(), files.bytes());
        let Load { trainable, recompute, quantised, state, sampled, .. } = &load;
        let TrainParams { stage, finetuning_type, per_device_train_batch_size: batch, .. } = train;
        let about = format!(
            "{stage} {finetuning_type} {batch} {trainable} {recompute} {quantised:?} {state} {sampled:?} {others} {machine:?} {bytes}"
        );
        let key = digest::hex(&digest::of_parts([env!("CODE"), path.as_str(), about.as_str()]));
        Self { load, others, file: places.home.join("cache/measured").join(format!("{key}.json")) }
    }

    /// What was measured of its kind, if anything was.
    pub fn measured(&self) -> Option<Measured> {
        serde_json::from_slice(&fs::read(&self.file).ok()?).ok()
    }

    fn remember(&self, measured: &Measured) -> Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        write_atomically(&self.file, serde_json::to_vec(measured).map_err(|e| Error::Internal(e.to_string()))?)
    }
}

/// Makes two steps of a run, one with its largest micro-batch and a usual one, and gives the plan that follows from them.
pub fn measure(config: &RunConfig, places: &Places, connect: Connect) -> Result<Plan> {
    let mut config = config.clone();
    ["resume_from_checkpoint", "output_dir"].iter().for_each(|key| config.remove(key));
    let mut prepared = prepare(&config, places, &mut |_, _| Ok(()))?;
    let (estimated, model) = (prepared.estimated.clone(), prepared.config.clone());
    let on_cpu = prepared.plan.device == "cpu";
    let sampler = rehearsal(&prepared.samples, &prepared.sampler, prepared.plan.steps);
    let ahead = prepared.tuning.tokens_ahead() * prepared.train.per_device_train_batch_size;
    let tokens = [0, 1].map(|step| micro_batches(&prepared.samples, &sampler, step));
    (prepared.sampler, prepared.plan.steps, prepared.eval) = (sampler, 2, Samples::of(Vec::new()));
    let Some((loading, step, peak)) = two_steps(&config, prepared, &tokens, places, connect)? else {
        return Err(Error::Internal("the steps to be measured weren't made".into()));
    };
    let mut load = estimated.load;
    if load.sampled.0 == 0 {
        load.batch_tokens = tokens.iter().flatten().max().copied().unwrap_or(0) + ahead as u64;
    }
    estimated.remember(&Measured {
        peak: if on_cpu { peak + HELD } else { 0 },
        formula: total(&model, &load) + estimated.others,
        loading,
        step,
        tokens: tokens[1].iter().sum(),
    })?;
    plan(&config, places)
}

fn total(model: &ModelConfig, load: &Load) -> u64 {
    by_part(model, load).iter().map(|part| part.bytes).sum()
}

/// Seconds of loading and of the second step, and the peak of the memory; `tokens` are those of both steps by micro-batch.
fn two_steps(
    config: &RunConfig,
    prepared: Prepared,
    tokens: &[Vec<u64>; 2],
    places: &Places,
    connect: Connect,
) -> Result<Option<(f64, f64, u64)>> {
    let scratch = Scratch::new(places)?;
    let spec =
        Spec { id: "measured".into(), kind: JobKind::Train, config: config.clone(), after: None, created_at: 0.0 };
    let (mut begun, mut times, mut peak, mut failed) = (Instant::now(), Vec::new(), 0, None);
    let mut sink = |event: Event| {
        match event {
            Event::Status { .. } => begun = Instant::now(),
            Event::Metrics { .. } => times.push(Instant::now()),
            Event::Finished { problem, .. } if times.len() < 2 => failed = problem,
            _ => {}
        }
        match (times.len(), peak) {
            (..2, _) => return Ok(()),
            (_, 0) => peak = memory::peak().unwrap_or(0),
            _ => {}
        }
        // What is wanted is known: the run ends here and leaves nothing.
        Err(Error::Internal("measured".into()))
    };
    let ended = run_prepared(&spec, Some(prepared), &scratch.0, places, connect, &mut sink, &AtomicBool::new(false));
    let [first, second] = times[..] else {
        return match failed {
            Some(problem) => Err(problem.into()),
            None => ended.map(|_| None),
        };
    };
    let step = second.duration_since(first).as_secs_f64();
    let [large, usual] = [0, 1].map(|i| tokens[i].iter().sum::<u64>() as f64);
    let loading = first.duration_since(begun).as_secs_f64() - step * large / usual.max(1.0);
    Ok(Some((loading.max(0.0), step, peak)))
}

/// Two steps out of all: the first with the largest micro-batch, the second of usual ones.
fn rehearsal(samples: &Samples, sampler: &Sampler, steps: u64) -> Sampler {
    let all: Vec<(u64, Vec<u32>)> = sampler
        .clone()
        .steps(0)
        .take(steps.min(LOOKED_AT) as usize)
        .flatten()
        .map(|batch| (samples.tokens_of(&batch), batch))
        .collect();
    let size = all.iter().map(|(_, batch)| batch.len()).max().unwrap_or(1);
    // Those at the end of an epoch may be smaller.
    let mut whole: Vec<_> = all.into_iter().filter(|(_, batch)| batch.len() == size).collect();
    let mean = whole.iter().map(|(tokens, _)| tokens).sum::<u64>() / whole.len().max(1) as u64;
    whole.sort_by_key(|(tokens, _)| tokens.abs_diff(mean));
    let accumulation = sampler.accumulation.min(MOST);
    let largest = whole.iter().max_by_key(|(tokens, _)| *tokens).cloned().into_iter();
    let usual = || whole.iter().cycle().cloned();
    let chosen = largest.chain(usual().take(accumulation - 1)).chain(usual().take(accumulation));
    let order: Vec<u32> = chosen.flat_map(|(_, batch)| batch).collect();
    Sampler { samples: order.len(), batch: size, accumulation, seed: sampler.seed, order: Order::Listed(order.into()) }
}

/// Tokens of each micro-batch of a step.
fn micro_batches(samples: &Samples, sampler: &Sampler, step: u64) -> Vec<u64> {
    sampler.step(step).iter().map(|batch| samples.tokens_of(batch)).collect()
}

/// A run folder that goes again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(places: &Places) -> Result<Self> {
        let dir = places.home.join(format!("cache/measured/{}.tmp", std::process::id()));
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Sequence, SpoolWriter};

    #[test]
    fn a_rehearsal_has_the_largest_micro_batch_first_and_usual_ones_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = SpoolWriter::nameless(dir.path()).unwrap();
        // 20 samples of 10 tokens, a long one, and one that is left over.
        (0..22).for_each(|i| spool.push(&Sequence::all(vec![1; if i == 13 { 90 } else { 10 }])).unwrap());
        let samples = Samples::whole(spool).unwrap();
        for (accumulation, expected) in [(1, 1), (2, 2), (16, MOST)] {
            let sampler = Sampler { samples: 22, batch: 4, accumulation, seed: 3, order: Order::Random };
            let two = rehearsal(&samples, &sampler, sampler.steps_per_epoch());
            assert_eq!((two.accumulation, two.steps_per_epoch(), two.batch), (expected, 2, 4));
            let [first, second] = [0, 1].map(|step| micro_batches(&samples, &two, step));
            assert_eq!((first[0], first.len()), (120, expected));
            assert_eq!(second, vec![40; expected]);
        }
    }

    #[test]
    fn what_was_measured_corrects_memory_and_time() {
        let measured = Measured { peak: 300, formula: 200, loading: 2.0, step: 0.5, tokens: 100 };
        let mut parts = [Part { bytes: 100, ..Part::default() }, Part { bytes: 20, ..Part::default() }];
        measured.correct(&mut parts);
        assert_eq!(parts.map(|part| part.bytes), [150, 30]);
        assert_eq!(Measured { peak: 0, ..measured }.factor(), 1.0);
    }
}
