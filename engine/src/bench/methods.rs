//! A tuning method on a classification task: an ordinary run trains briefly on nine tenths of the rows, then the
//! likeliest of the labels is asked for on the rest.

use crate::{
    Error, Places, Result,
    adapters::ADAPTERS,
    data::{Cache, LoadOptions, Loader, Needs, Reading, Samples, preview},
    evaluate::classes::macro_f1,
    loaded::Loaded,
    memory,
    model::{Batch, Network},
    run,
};
use api::{
    Event, JobKind, Outcome, Problem, RunConfig,
    job::Spec,
    params::{ComputeType, ModelParams, TrainParams},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Instant,
};

/// What is asked of [`method`].
#[derive(Clone, Debug)]
pub struct MethodBench {
    pub model: String,
    /// A file of rows, each with one of a few labels as its answer.
    pub data: PathBuf,
    /// One of [`methods`].
    pub method: String,
    pub steps: u64,
    /// Arguments of the run that replace those of the benchmark.
    pub arguments: RunConfig,
}

/// What [`method`] found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MethodReport {
    pub method: String,
    pub trainable: u64,
    pub steps: u64,
    /// Rows that were asked for, and labels to choose from.
    pub rows: usize,
    pub labels: usize,
    /// Shares of 1.
    pub accuracy: f64,
    pub macro_f1: f64,
    /// Accuracy of always giving the commonest label.
    pub majority: f64,
    /// Of the training, in bytes and seconds.
    pub peak_memory: Option<u64>,
    pub seconds: f64,
}

/// Rows that are held back, as a share.
const HELD_BACK: f64 = 0.1;
/// More different answers than these are no labels.
const MOST_LABELS: usize = 20;
/// Rows of a training step.
const BATCH: u64 = 8;
/// LoRA on a base of 4 bits.
const QLORA: &str = "qlora";
/// Rows that are asked for together.
const TOGETHER: usize = 8;

/// Every tuning type, and LoRA on a base of 4 bits.
pub fn methods() -> Vec<String> {
    ADAPTERS.iter().map(|adapter| adapter.card().name).chain([QLORA.to_string()]).collect()
}

/// Trains and asks. In a process of its own, so that the peak of its memory is that of the method.
pub fn method(bench: &MethodBench, places: &Places) -> Result<MethodReport> {
    let dir = places.home.join(format!("bench-{}", std::process::id()));
    fs::create_dir_all(dir.join("data")).map_err(Error::io(&dir))?;
    let found = measure(bench, places, &dir);
    fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
    found
}

fn measure(bench: &MethodBench, places: &Places, dir: &Path) -> Result<MethodReport> {
    let file = dir.join("data").join(bench.data.file_name().unwrap_or_default());
    fs::copy(&bench.data, &file).map_err(Error::io(&bench.data))?;
    let info = json!({"rows": {"file_name": file.file_name().unwrap_or_default().to_string_lossy()}});
    let index = dir.join("data/dataset_info.json");
    fs::write(&index, info.to_string()).map_err(Error::io(&index))?;

    let config = arguments(bench, dir);
    let spec = Spec { id: "bench".into(), kind: JobKind::Train, config: config.clone(), after: None, created_at: 0.0 };
    let (results, begun) = (dir.join("run"), Instant::now());
    let (mut trainable, mut steps, mut problem) = (0, 0, None);
    let mut sink = |event: Event| {
        match event {
            Event::Planned { plan } => (trainable, steps) = (plan.trainable, plan.steps),
            Event::Finished { problem: found, .. } => problem = found,
            _ => {}
        }
        Ok(())
    };
    let outcome = run::run(&spec, &results, places, &mut sink, &AtomicBool::new(false))?;
    let (seconds, peak_memory) = (begun.elapsed().as_secs_f64(), memory::peak());
    if let Some(problem) = problem {
        return Err(problem.into());
    }
    if outcome != Outcome::Succeeded {
        return Err(Error::Internal("the run did not end by itself".into()));
    }

    let is_adapter = results.join("adapter_config.json").exists();
    let at = results.display().to_string();
    let params = ModelParams {
        model_name_or_path: if is_adapter { bench.model.clone() } else { at.clone() },
        adapter_name_or_path: is_adapter.then_some(at),
        ..ModelParams::default()
    };
    let loaded = Loaded::open(&params, places, ComputeType::Auto)?;
    let (trained, held) = rows(&file, &loaded, places)?;
    let labels = labels(&[&trained, &held])?;
    let mut pairs = Vec::with_capacity(held.len());
    for start in (0..held.len()).step_by(TOGETHER) {
        let some = (start..held.len().min(start + TOGETHER)).map(|i| held.batch(&[i as u32]));
        pairs.extend(ask(loaded.model.as_ref(), &some.collect::<Result<Vec<_>>>()?, &labels)?);
    }
    let count = |label: usize| pairs.iter().filter(|(wanted, _)| *wanted == label).count();
    let commonest = (0..labels.len()).map(count).max().unwrap_or(0);
    let share = |n: usize| n as f64 / pairs.len().max(1) as f64;
    Ok(MethodReport {
        method: bench.method.clone(),
        trainable,
        steps,
        rows: pairs.len(),
        labels: labels.len(),
        accuracy: share(pairs.iter().filter(|(wanted, found)| wanted == found).count()),
        macro_f1: macro_f1(&pairs, labels.len()),
        majority: share(commonest),
        peak_memory,
        seconds,
    })
}

/// The run of a method, with a learning rate that suits it: the fewer its parameters, the larger its steps.
fn arguments(bench: &MethodBench, dir: &Path) -> RunConfig {
    let tuning = if bench.method == QLORA { "lora" } else { bench.method.as_str() };
    let rate = match tuning {
        "full" => 5e-5,
        "freeze" => 1e-4,
        "lora" => 5e-4,
        "adapter" | "oft" => 1e-3,
        "adalora" => 2e-3,
        "ia3" => 1e-2,
        // Vectors before the text, and what the registry has got since.
        _ => 3e-2,
    };
    let mut config = RunConfig::default();
    config.set("model_name_or_path", bench.model.as_str());
    config.set("finetuning_type", tuning);
    config.set("dataset", "rows");
    config.set("dataset_dir", dir.join("data").display().to_string());
    config.set("val_size", HELD_BACK);
    config.set("max_steps", bench.steps);
    // Validation only at the end.
    config.set("eval_steps", bench.steps);
    config.set("save_steps", 0u64);
    config.set("learning_rate", rate);
    config.set("warmup_ratio", 0.1);
    config.set("lr_scheduler_type", "cosine");
    config.set("per_device_train_batch_size", BATCH);
    if bench.method == QLORA {
        config.set("quantization_bit", 4u64);
    }
    bench.arguments.0.iter().for_each(|(key, value)| config.set(key, value.clone()));
    config
}

/// The rows that a run trains on and those that it holds back.
fn rows(file: &Path, loaded: &Loaded, places: &Places) -> Result<(Samples, Samples)> {
    let (registry, name) = preview::one_file(file)?;
    let (cache, options) = (Cache::new(places.tokens()), LoadOptions::plain(Needs::Instructions));
    let (reading, progress) = (Reading::Whole, &mut |_, _| Ok(()));
    let mut loader = Loader { registry: &registry, encoder: &loaded.encoder, cache: &cache, reading, progress };
    loader.load(&[name], &options)?.samples.split(HELD_BACK, TrainParams::default().seed)
}

/// The different answers of all rows, as tokens.
fn labels(samples: &[&Samples]) -> Result<Vec<Vec<u32>>> {
    let mut labels: Vec<Vec<u32>> = Vec::new();
    for samples in samples {
        for i in 0..samples.len() {
            let answer = samples.batch(&[i as u32])?.targets;
            if !labels.contains(&answer) {
                labels.push(answer);
            }
            if labels.len() > MOST_LABELS {
                return Err(Problem::new(
                    "no_labels",
                    format!("The rows have more than {MOST_LABELS} different answers: these are no labels."),
                    format!("这些行有超过 {MOST_LABELS} 种不同的回答，不是标签。"),
                )
                .hint(
                    "Take rows whose answers are a few words, such as a sentiment.",
                    "请使用回答仅有几种（例如情感）的数据。",
                )
                .field("data")
                .into());
            }
        }
    }
    labels.sort();
    Ok(labels)
}

/// For each row the number of its own label and that of the likeliest.
fn ask(model: &dyn Network, rows: &[Batch], labels: &[Vec<u32>]) -> Result<Vec<(usize, usize)>> {
    let mut sequences = Vec::new();
    for row in rows {
        let first = row.rows.first().map_or(row.ids.len(), |r| *r as usize + 1);
        for label in labels {
            let ids: Vec<u32> = row.ids[..first].iter().chain(label).copied().collect();
            let asked: Vec<bool> = (0..ids.len()).map(|i| i >= first).collect();
            sequences.push((ids, asked));
        }
    }
    let batch = Batch::new(sequences.iter().map(|(ids, asked)| (ids.as_slice(), asked.as_slice())));
    let losses = model.losses(&batch)?;
    let likeliest = |losses: &[f64]| (0..labels.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap_or(0);
    let own = |row: &Batch| labels.iter().position(|label| *label == row.targets).unwrap_or(labels.len());
    Ok(rows.iter().zip(losses.chunks(labels.len().max(1))).map(|(row, l)| (own(row), likeliest(l))).collect())
}
