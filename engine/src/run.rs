//! A worker's work: the job of one run folder, from its specification to its last event.

use crate::{
    Error, Places, Result,
    adapters::{Base, Precision},
    files::export,
    make::{self, Connect},
    merge,
    model::{Building, Source, Store},
    prepare::{Prepared, prepare},
    provenance::Provenance,
    stages::Setting,
    train::{Average, Run, TrainerLog, checkpoint, optimizers, schedule::Shape},
};
use api::{Event, JobKind, Outcome, Problem, RunConfig, Text, job::Spec};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Takes each event as it happens; an error (a full disk, say) ends the run.
pub type Sink<'a> = &'a mut dyn FnMut(Event) -> Result<()>;

/// Does the job and says everything through `sink`, the last word included. `stop` asks it to save and end.
pub fn run(spec: &Spec, dir: &Path, places: &Places, sink: Sink, stop: &AtomicBool) -> Result<Outcome> {
    run_prepared(spec, None, dir, places, &make::no_endpoints, sink, stop)
}

/// As [`run`], for a training that was prepared before, and with a way to teachers elsewhere.
pub fn run_prepared(
    spec: &Spec,
    prepared: Option<Prepared>,
    dir: &Path,
    places: &Places,
    connect: Connect,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<Outcome> {
    sink(Event::Started { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into() })?;
    let done = match spec.kind {
        JobKind::Train => train(&spec.config, prepared, dir, places, connect, sink, stop),
        JobKind::Export => merge::export(&spec.config, &spec.id, places, sink, stop).map(|o| (o, BTreeMap::new())),
        JobKind::Make => make::make(&spec.config, &spec.id, places, connect, sink, stop),
        JobKind::Pull => Err(Error::Internal("a pull is the server's job".into())),
    };
    let (outcome, problem, summary) = match done {
        Ok((outcome, summary)) => (outcome, None, summary),
        Err(error) => (Outcome::Failed, Some(error.into_problem()), BTreeMap::new()),
    };
    sink(Event::Finished { outcome, problem, summary })?;
    Ok(outcome)
}

fn train(
    config: &RunConfig,
    prepared: Option<Prepared>,
    dir: &Path,
    places: &Places,
    connect: Connect,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    let prepared = match prepared {
        Some(prepared) => prepared,
        None => {
            status(sink, "Reading the data", "正在读取数据")?;
            let mut told = Instant::now();
            let prepared = prepare(config, places, &mut |done, total| {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Internal("stopped".into()));
                }
                if told.elapsed() < Duration::from_millis(500) {
                    return Ok(());
                }
                told = Instant::now();
                sink(Event::Status { text: Text::new("Encoding the data", "正在编码数据"), done, total })
            });
            if stop.load(Ordering::Relaxed) {
                return Ok((Outcome::Stopped, BTreeMap::new()));
            }
            prepared?
        }
    };
    sink(Event::Planned { plan: Box::new(prepared.plan.clone()) })?;
    for problem in &prepared.plan.warnings {
        sink(Event::Note { problem: problem.clone() })?;
    }
    room_for(&prepared, dir)?;
    let mut provenance = Provenance::of(config, &prepared, places)?;
    provenance.write(dir)?;
    status(sink, "Loading the model", "正在加载模型")?;
    let Prepared { model: chosen, train, optimizer: more, output, stage, tuning, files, plan, .. } = &prepared;
    let device = crate::device::open(chosen.device.as_deref())?;
    if stage.drops_out() {
        crate::device::check(config, &device)?;
    }
    let mut store = Store::default();
    let source = match chosen.train_from_scratch {
        true => Source::Random { seed: train.seed },
        false => Source::Files(files),
    };
    let compute = prepared.compute.dtype();
    let (attach, quantisation) = (tuning.as_ref(), prepared.quantisation);
    let noise = train.neftune_noise_alpha.filter(|alpha| *alpha > 0.0);
    let recompute = prepared.recompute;
    let how = Building { quantisation, recompute, noise, ..Building::new(source, attach, &device, compute) };
    let model = prepared.config.build(&how, &mut store)?;
    tuning.place(model.as_ref())?;
    store.set_factors(|parameter| tuning.rate_factor(parameter));

    let tuned = store.clone();
    let mut objective = stage.start(config)?;
    let setting = Setting { config, prepared: &prepared, model: model.as_ref(), places, connect };
    objective.begin(&setting, &mut store)?;

    let mut optimizer = optimizers::start(train, more)?;
    let mut average = Average::new(&store, more.ema_decay);
    let (mut step, mut history) = (0, Vec::new());
    if let Some(from) = resume_from(output.resume_from_checkpoint.as_ref(), dir, sink)? {
        let (done, state, trainer) = checkpoint::read(&from)?;
        tuning.restore(&tuned, &from)?;
        objective.restore(&from)?;
        optimizer.restore(&store, state, objective.updates(done))?;
        if let Some(average) = &mut average {
            average.restore(&from)?;
        }
        step = done;
        history = trainer["log_history"].as_array().cloned().unwrap_or_default();
    }
    let base = Base { files, name: &chosen.model_name_or_path };
    let mut run = Run {
        model: model.as_ref(),
        store: &store,
        tuned: &tuned,
        tuning: tuning.as_ref(),
        base,
        samples: prepared.samples.clone(),
        eval: prepared.eval.clone(),
        params: train,
        output,
        sampler: prepared.sampler.clone(),
        optimizer,
        shape: Shape::read(train, more)?,
        average,
        log: TrainerLog::new(dir, plan.steps, train, output, step, history),
        step,
        steps: plan.steps,
        updates: objective.updates(step),
        dir,
        sink,
        stop,
    };
    let outcome = objective.train(&mut run)?;
    if outcome == Outcome::Succeeded {
        Average::instead(run.average.as_ref(), || {
            tuning.save(dir, model.as_ref(), &tuned, &run.base, Precision::Storage)?;
            objective.save(dir)
        })?;
        export::write_tokenizer(dir, files)?;
        provenance.conclude(dir)?;
        let bytes = checkpoint::folder_bytes(dir);
        (run.sink)(Event::Artifact { path: dir.display().to_string(), bytes })?;
    }
    let summary = run.log.finish(run.step, run.epoch(), plan.samples as f64 * run.epoch())?;
    Ok((outcome, summary))
}

/// The checkpoint to go on from: a path, or for `true` the newest whole one of this run.
fn resume_from(wish: Option<&Value>, dir: &Path, sink: Sink) -> Result<Option<PathBuf>> {
    let path = match wish {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(Value::String(path)) if path != "true" => PathBuf::from(path),
        Some(_) => {
            let (found, damaged) = checkpoint::newest(dir);
            for fault in damaged {
                let problem = Problem::new(
                    "damaged_checkpoint",
                    format!("A checkpoint is damaged and was passed over. {fault}."),
                    format!("有检查点已损坏，已跳过。{fault}。"),
                );
                sink(Event::Note { problem })?;
            }
            // `newest` has verified it.
            return Ok(found.map(|(path, _)| path));
        }
    };
    let faults = checkpoint::damage(&path);
    if faults.is_empty() {
        return Ok(Some(path));
    }
    let (shown, faults) = (path.display(), faults.join("; "));
    Err(Problem::new(
        "damaged_checkpoint",
        format!("{shown} is no whole checkpoint: {faults}."),
        format!("{shown} 不是完整的检查点：{faults}。"),
    )
    .hint("Choose another, or true for the newest whole one.", "请换一个，或设为 true 使用最新的完整检查点。")
    .field("resume_from_checkpoint")
    .into())
}

/// Refuses a run whose checkpoints would not fit on the disk.
fn room_for(prepared: &Prepared, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let Some(free) = free_space(dir) else { return Ok(()) };
    let needed = prepared.plan.disk + prepared.plan.disk / 5;
    if free >= needed {
        return Ok(());
    }
    let (needed, free) = (needed.div_ceil(1_000_000), free / 1_000_000);
    Err(Problem::new(
        "disk_full",
        format!("The run needs {needed} MB on the disk, {free} MB are free."),
        format!("此运行需要 {needed} MB 磁盘空间，可用 {free} MB。"),
    )
    .hint(
        "Free some space, or set save_total_limit or a larger save_steps.",
        "请腾出空间，或设置 save_total_limit、调大 save_steps。",
    )
    .field("save_steps")
    .into())
}

/// Bytes that may still be written to the disk of a folder.
fn free_space(dir: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(disk.blocks_available() * disk.fragment_size())
}

fn status(sink: Sink, en: &str, zh: &str) -> Result<()> {
    sink(Event::Status { text: Text::new(en, zh), done: 0, total: 0 })
}
