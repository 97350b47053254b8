//! The loop of the stages that sample. A step is made whole or not at all.

use super::State;
use crate::{
    Result,
    stages::Objective,
    train::{Before, Run},
};
use api::Outcome;

/// What learns step by step from its own answers.
pub trait Policy: Objective {
    /// The loop state that its checkpoints keep.
    fn state(&mut self) -> &mut State;

    /// Whether a step makes more than one update, so that it can fail when it has changed something.
    fn updates_often(&self) -> bool;

    /// Makes the step at hand, tells of it, and saves where that is due. False if the run is to stop before it.
    fn step(&mut self, run: &mut Run) -> Result<bool>;
}

/// All steps to come. One that fails, since a judge is away or the loss is no number, changes nothing: the step before it is
/// saved, and a resumed run makes the failed one again.
pub fn steps(policy: &mut impl Policy, run: &mut Run) -> Result<Outcome> {
    while run.step < run.steps {
        let (step, state) = (run.step, policy.state().clone());
        let before = (step > 0 && policy.updates_often()).then(|| Before::of(run)).transpose()?;
        match policy.step(run) {
            Ok(true) => {}
            Ok(false) => {
                run.save(policy)?;
                return Ok(Outcome::Stopped);
            }
            Err(error) => {
                if run.step == step {
                    *policy.state() = state;
                    if let Some(before) = before {
                        before.put_back(run, policy.updates(step))?;
                    }
                }
                run.keep_last_good(policy)?;
                return Err(error);
            }
        }
    }
    Ok(Outcome::Succeeded)
}
