//! A worker's work: the job of one run folder, from its specification to its last event.

use crate::{
    Error, Places, Result,
    adapters::{Base, Precision},
    evaluate, export,
    files::write_tokenizer,
    make::{self, Connect},
    model::{Building, Source, Store},
    prepare::{Prepared, prepare},
    provenance::Provenance,
    stages::Setting,
    train::{
        Average, Run, TrainerLog,
        begin::{Begin, Trained, compare, load_best, nothing_left},
        checkpoint::{self, Best, Contents, Keeper, Manifest, Origin, Space},
        optimizers,
        schedule::Shape,
    },
};
use api::{Event, JobKind, Outcome, Text, job::Spec};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
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
        JobKind::Train => train(spec, prepared, dir, places, connect, sink, stop),
        JobKind::Export => export::export(&spec.config, &spec.id, dir, places, sink, stop),
        JobKind::Make => make::make(&spec.config, &spec.id, places, connect, sink, stop),
        JobKind::Evaluate => evaluate::evaluate(&spec.config, dir, places, sink, stop),
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
    spec: &Spec,
    prepared: Option<Prepared>,
    dir: &Path,
    places: &Places,
    connect: Connect,
    sink: Sink,
    stop: &AtomicBool,
) -> Result<(Outcome, BTreeMap<String, f64>)> {
    let config = &spec.config;
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
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    checkpoint::clear_leftovers(dir);
    checkpoint::room_for(prepared.space, dir)?;
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

    let space = Space { checkpoint: expected(&prepared, &store), ..prepared.space };
    checkpoint::room_for(space, dir)?;
    let mut keeper = Keeper::open(dir, output.save_total_limit, space.checkpoint.saturating_add(space.log));
    let settings = checkpoint::settings(config);
    let origin = Origin::of(&provenance, train.seed);
    let mut begin = Begin {
        optimizer: optimizers::start(train, more)?,
        average: Average::new(&store, more.ema_decay),
        best: Best::wanted(output, *stage),
        step: 0,
        earlier: 0,
        history: Vec::new(),
    };
    let mut note = |problem| sink(Event::Note { problem });
    if let Some(from) = checkpoint::choose(output.resume_from_checkpoint.as_ref(), dir, &mut note)? {
        compare(&from, &settings, &origin, output, &mut note)?;
        let into = Trained { tuning: tuning.as_ref(), tuned: &tuned, store: &store, objective: objective.as_mut() };
        begin.take_up(&from, output.resume_mode, into, more.ema_decay)?;
        if begin.step > 0 && from.path.parent() == Some(dir) {
            keeper.begins_at(begin.step);
        }
        if begin.step >= plan.steps {
            note(nothing_left(begin.step, plan.steps))?;
        }
    }
    let Begin { optimizer, average, best, step, earlier, history } = begin;
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
        earlier,
        rate: 0.0,
        keeper,
        manifest: Manifest { run: spec.id.clone(), origin, settings, ..Manifest::default() },
        best,
        dir,
        sink,
        stop,
    };
    let outcome = objective.train(&mut run)?;
    if outcome == Outcome::Succeeded {
        if output.load_best_model_at_end {
            load_best(&mut run, objective.as_mut())?;
        }
        Average::instead(run.average.as_ref(), || {
            tuning.save(dir, model.as_ref(), &tuned, &run.base, Precision::Storage)?;
            objective.save(dir)
        })?;
        write_tokenizer(dir, files)?;
        provenance.conclude(dir)?;
        let bytes = checkpoint::folder_bytes(dir);
        (run.sink)(Event::Artifact { path: dir.display().to_string(), bytes })?;
        run.keeper.prune(run.best.as_ref().and_then(Best::name).as_deref(), true)?;
    }
    let samples = plan.samples as f64 * run.epoch();
    let summary = run.log.finish(run.step, run.epoch(), samples, run.best.as_ref())?;
    Ok((outcome, summary))
}

/// Bytes of a checkpoint without its log.
fn expected(prepared: &Prepared, store: &Store) -> u64 {
    let Prepared { tuning, plan, train, optimizer, files, .. } = prepared;
    let trained = store.trainable().count() as u64;
    let values: u64 = store.trainable().map(|parameter| parameter.get().elem_count() as u64).sum();
    let whole = tuning.saves_model();
    let contents = Contents {
        values: if whole { values.max(plan.parameters) } else { values },
        tensors: if whole { trained.max(files.names().count() as u64) } else { trained },
        state: optimizers::bytes(train, optimizer, values),
        trained,
    };
    contents.bytes()
}

fn status(sink: Sink, en: &str, zh: &str) -> Result<()> {
    sink(Event::Status { text: Text::new(en, zh), done: 0, total: 0 })
}
