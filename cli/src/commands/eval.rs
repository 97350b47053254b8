//! `lathe eval`: an exam, or a dataset that the model answers.

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
    let places = environment.places();
    engine::evaluate::arguments(&config, &places).map_err(Failure::refused)?;
    home::set_up(&environment.home)?;
    work(RunFolder::make(JobKind::Evaluate, config, &places)?, None, environment, say)
}
