//! The work of one run folder, in this process: the engine does it, its events go to the file.

use crate::{
    environment::Environment,
    events::EventLog,
    heartbeat::Heart,
    outcome::{self, Failure, Outcome},
    runs::RunFolder,
    teacher,
};
use api::{Event, Line, Problem};
use engine::{make::Endpoint, prepare::Prepared};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;

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
    let mut log = EventLog::open(dir).map_err(|e| Failure::io(dir, e))?;
    let _heart = Heart::start(dir);
    let mut failed = None;
    let mut sink = |event: Event| {
        let line = log.write(event).map_err(engine::Error::io(dir.join("events.jsonl")))?;
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

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    outcome::internal(format!("A promise of the code was broken: {}", text.unwrap_or("no message")))
}
