//! `lathe train`: a run in the foreground, with a progress bar. The studio lists it like its own.

use crate::{
    config,
    environment::Environment,
    gpu, home, job, log,
    outcome::{Failure, Outcome},
    progress::{Watch, planned},
    runs::RunFolder,
    say::Say,
    signals, teacher,
};
use api::{JobKind, Plan, plan::gigabytes};
use engine::{estimate::measure::measure, make::Endpoint, prepare::Prepared};

pub fn run(words: &[String], environment: &Environment, say: &Say) -> Outcome {
    let config = config::read(words)?;
    gpu::hand_over(&config)?;
    home::set_up(&environment.home)?;
    let places = environment.places();
    // Every problem of the request at once, before anything is written.
    let prepared = engine::prepare::prepare(&config, &places, &mut |_, _| Ok(())).map_err(Failure::refused)?;
    work(RunFolder::make(JobKind::Train, config, &places)?, Some(prepared), environment, say)
}

/// `lathe train --dry-run`: what a run would take, by two steps of it that leave nothing.
pub fn dry_run(words: &[String], environment: &Environment, say: &Say) -> Outcome {
    let config = config::read(words)?;
    gpu::hand_over(&config)?;
    home::set_up(&environment.home)?;
    let connect = |endpoint: &Endpoint| teacher::connect(endpoint, &environment.teacher);
    let plan = measure(&config, &environment.places(), &connect).map_err(Failure::refused)?;
    say.result(&plan, || lines(&plan, say).join("\n"));
    Ok(())
}

/// The plan in words, with what would make the run fit.
fn lines(plan: &Plan, say: &Say) -> Vec<String> {
    let (seconds, disk) = (plan.seconds.unwrap_or_default().ceil(), gigabytes(plan.disk));
    let cost = match say.is_chinese() {
        true => format!("约 {seconds} 秒，磁盘 {disk}；{}", say.text(&plan.basis)),
        false => format!("about {seconds} s, {disk} on the disk; {}", say.text(&plan.basis)),
    };
    let warnings = plan.warnings.iter().map(|problem| say.warning(problem));
    [planned(plan, say.is_chinese()), cost].into_iter().chain(warnings).collect()
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
