//! `lathe export`: an adapter merged into its model.

use super::train::work;
use crate::{
    config,
    environment::Environment,
    home,
    outcome::{Failure, Outcome},
    runs::RunFolder,
    say::Say,
};
use api::JobKind;

pub fn run(words: &[String], environment: &Environment, say: &Say) -> Outcome {
    let config = config::read(words)?;
    engine::export::arguments(&config).map_err(Failure::refused)?;
    home::set_up(&environment.home)?;
    work(RunFolder::make(JobKind::Export, config, &environment.places())?, None, environment, say)
}
