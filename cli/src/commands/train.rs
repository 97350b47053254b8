//! `lathe train`: a run in the foreground, with a progress bar. The studio lists it like its own.

use crate::{
    config,
    environment::Environment,
    gpu, home, job, log,
    outcome::{Failure, Outcome},
    progress::Watch,
    runs::RunFolder,
    say::Say,
    signals,
};
use api::JobKind;
use engine::prepare::Prepared;

pub fn run(words: &[String], environment: &Environment, say: &Say) -> Outcome {
    let config = config::read(words)?;
    gpu::hand_over(&config)?;
    home::set_up(&environment.home)?;
    let places = environment.places();
    // Every problem of the request at once, before anything is written.
    let prepared = engine::prepare::prepare(&config, &places, &mut |_, _| Ok(())).map_err(Failure::refused)?;
    work(RunFolder::make(JobKind::Train, config, &places)?, Some(prepared), environment, say)
}

/// Does the work of the folder and shows how it goes.
pub fn work(folder: RunFolder, prepared: Option<Prepared>, environment: &Environment, say: &Say) -> Outcome {
    log::to_run(&folder.dir);
    let stop = signals::stop_flag();
    let mut watch = Watch::new(say, &folder.spec);
    let result = job::run(&folder, prepared, environment, &stop, &mut |line| {
        if say.json {
            say.json(line);
        }
        watch.line(line);
    });
    watch.end();
    result
}
