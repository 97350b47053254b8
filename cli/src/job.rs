//! The work of one run folder, in this process: the engine does it, its events go to the file.

use crate::{
    environment::Environment,
    events::EventLog,
    heartbeat::Heart,
    memory,
    outcome::{self, FAILED, Failure, Outcome},
    runs::RunFolder,
    teacher,
};
use api::{Event, Line, Plan, Problem, job::Heartbeat, memory::Exhausted};
use engine::{make::Endpoint, prepare::Prepared};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};
use std::{fs, io, thread, time::Duration};

/// What a run has said, for whoever says its last word.
struct Told {
    log: EventLog,
    step: u64,
    saved: Option<u64>,
    plan: Option<Box<Plan>>,
    is_finished: bool,
}

impl Told {
    fn tell(&mut self, event: Event) -> io::Result<Line> {
        let line = self.log.write(event)?;
        match &line.event {
            Event::Planned { plan } => self.plan = Some(plan.clone()),
            Event::Metrics { step, .. } => self.step = *step,
            Event::Checkpoint { step, .. } => self.saved = Some(*step),
            Event::Finished { .. } => self.is_finished = true,
            _ => {}
        }
        Ok(line)
    }
}

/// Runs to the end; each line of `events.jsonl` is also handed to `on_line`. A run that failed has said why in its last
/// line, and the failure is marked as told. `prepared` is a training's preparation, where that was made before.
pub fn run(
    folder: &RunFolder,
    prepared: Option<Prepared>,
    environment: &Environment,
    stop: &AtomicBool,
    on_line: &mut dyn FnMut(&Line),
) -> Outcome {
    let dir = &folder.dir;
    let log = EventLog::open(dir).map_err(|e| Failure::io(dir, e))?;
    let told = Told { log, step: 0, saved: None, plan: None, is_finished: false };
    let told = Arc::new(Mutex::new(told));
    let limit = environment.memory_limit().map_err(Failure::wrong)?;
    watch_memory(folder, told.clone(), limit);
    let _heart = Heart::start(dir);
    let mut failed = None;
    let mut sink = |event: Event| {
        let line = held(&told).tell(event).map_err(engine::Error::io(dir.join("events.jsonl")))?;
        if let Event::Finished { outcome: api::Outcome::Failed, problem, .. } = &line.event {
            failed = Some(problem.clone().unwrap_or_default());
        }
        on_line(&line);
        Ok(())
    };
    let places = environment.places();
    let connect = |endpoint: &Endpoint| teacher::connect(endpoint, &environment.teacher);
    let work =
        AssertUnwindSafe(|| engine::run::run_prepared(&folder.spec, prepared, dir, &places, &connect, &mut sink, stop));
    let result = catch_unwind(work).unwrap_or_else(|panic| {
        let event = Event::Finished {
            outcome: api::Outcome::Failed,
            problem: Some(panicked(&*panic)),
            summary: BTreeMap::new(),
        };
        sink(event).map(|()| api::Outcome::Failed)
    });
    if let Err(error) = result {
        return Err(Failure::failed(error.into_problem()));
    }
    match failed {
        Some(problem) => Err(Failure { is_told: true, ..Failure::failed(problem) }),
        None => Ok(()),
    }
}

/// Has a run whose memory runs out say so, with what one can do, and end.
fn watch_memory(folder: &RunFolder, told: Arc<Mutex<Told>>, limit: Option<u64>) {
    let (config, heartbeat) = (folder.spec.config.clone(), folder.dir.join(Heartbeat::FILE));
    memory::watch(move |_| {
        if let Some(mut told) = soon_held(&told).filter(|told| !told.is_finished) {
            let peak = engine::memory::peak();
            let Told { step, saved, plan, .. } = &*told;
            let exhausted =
                Exhausted { step: *step, saved: *saved, peak, limit, config: Some(&config), plan: plan.as_deref() };
            let problem = exhausted.problem();
            eprintln!("{problem}");
            let outcome = api::Outcome::Failed;
            let _ = told.tell(Event::Finished { outcome, problem: Some(problem), summary: BTreeMap::new() });
        }
        give_up(heartbeat)
    });
}

fn give_up(heartbeat: PathBuf) -> ! {
    let _ = fs::remove_file(heartbeat);
    std::process::exit(FAILED.into())
}

fn held(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that holds it may be the one that waits for memory: then nothing more can be said.
fn soon_held(told: &Mutex<Told>) -> Option<MutexGuard<'_, Told>> {
    let wait = |_| {
        thread::sleep(Duration::from_millis(10));
        told.try_lock().ok()
    };
    told.try_lock().ok().or_else(|| (0..100).find_map(wait))
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    outcome::internal(format!("A promise of the code was broken: {}", text.unwrap_or("no message")))
}
