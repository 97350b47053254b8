//! The life of a job: every change of its state that there is, in one table.

use api::{
    Job,
    JobState::{self, Failed, Interrupted, Queued, Running, Stopped, Stopping, Succeeded},
    Outcome,
};

/// Why a state changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The queue found room for it.
    Claimed,
    /// Its worker can't be started.
    NotStarted,
    /// A worker says that it begins, perhaps one that was started in a terminal.
    Began,
    /// The worker's last word.
    Said(Outcome),
    /// A person wants it to stop.
    StopAsked,
    /// The worker went when asked to, before it could listen.
    StoppedUnheard,
    /// The worker is gone without a last word.
    Lost,
    /// A person wants it to go on.
    Resumed,
    /// The queue starts it again by itself.
    Restarted,
}

/// What a state becomes; nothing where a cause doesn't apply.
pub fn next(state: JobState, cause: Cause) -> Option<JobState> {
    Some(match (state, cause) {
        (Queued, Cause::Claimed) => Running,
        (Queued, Cause::StopAsked) => Stopped,
        (Running, Cause::NotStarted) => Failed,
        (Running, Cause::StopAsked) => Stopping,
        (Running | Stopping, Cause::Lost) => Interrupted,
        (Stopping, Cause::StopAsked | Cause::Began) => Stopping,
        (Stopping, Cause::StoppedUnheard) => Stopped,
        (Interrupted, Cause::StopAsked) => Stopped,
        (Interrupted, Cause::Restarted) => Queued,
        (Stopped | Failed | Interrupted, Cause::Resumed) => Queued,
        // The event file is the truth of a run, whoever writes it.
        (_, Cause::Began) => Running,
        (_, Cause::Said(Outcome::Succeeded)) => Succeeded,
        (_, Cause::Said(Outcome::Stopped)) => Stopped,
        (_, Cause::Said(Outcome::Failed)) => Failed,
        _ => return None,
    })
}

/// Changes the state of a job as the table allows; false, and nothing happens, where it doesn't. An ended job has no
/// status, no time left and no sign of life to give; one that begins or waits again has no problem yet.
pub fn advance(job: &mut Job, cause: Cause, time: f64) -> bool {
    let Some(state) = next(job.state, cause) else { return false };
    job.state = state;
    job.restart = None;
    job.progress.stalled_since = None;
    job.progress.seconds_left = None;
    if state != Stopping {
        job.progress.status = None;
    }
    if state.is_active() {
        job.finished_at = None;
        job.problem = None;
    } else {
        // The clock may have been set back meanwhile; nothing takes less than no time.
        job.finished_at = Some(time.max(job.started_at.unwrap_or(time)));
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Record;

    const STATES: [JobState; 7] = [Queued, Running, Stopping, Succeeded, Stopped, Failed, Interrupted];

    /// Each row a cause, each column a state in the order of [`STATES`]; `.` where nothing may happen.
    const EXPECTED: [(Cause, &str); 11] = [
        (Cause::Claimed, "R . . . . . ."),
        (Cause::NotStarted, ". F . . . . ."),
        (Cause::Began, "R R s R R R R"),
        (Cause::Said(Outcome::Succeeded), "S S S S S S S"),
        (Cause::Said(Outcome::Stopped), "X X X X X X X"),
        (Cause::Said(Outcome::Failed), "F F F F F F F"),
        (Cause::StopAsked, "X s s . . . X"),
        (Cause::StoppedUnheard, ". . X . . . ."),
        (Cause::Lost, ". I I . . . ."),
        (Cause::Resumed, ". . . . Q Q Q"),
        (Cause::Restarted, ". . . . . . Q"),
    ];

    fn letter(state: Option<JobState>) -> &'static str {
        match state {
            None => ".",
            Some(Queued) => "Q",
            Some(Running) => "R",
            Some(Stopping) => "s",
            Some(Succeeded) => "S",
            Some(Stopped) => "X",
            Some(Failed) => "F",
            Some(Interrupted) => "I",
        }
    }

    #[test]
    fn every_change_of_state_is_in_the_table() {
        for (cause, row) in EXPECTED {
            let found = STATES.map(|state| letter(next(state, cause)));
            assert_eq!(found.join(" "), row, "{cause:?}");
        }
    }

    #[test]
    fn what_ended_well_or_by_a_person_never_starts_by_itself() {
        let own = [Cause::Claimed, Cause::Restarted, Cause::Lost, Cause::NotStarted];
        for state in [Succeeded, Stopped, Failed] {
            assert!(own.iter().all(|cause| next(state, *cause).is_none()), "{state:?}");
        }
    }

    #[test]
    fn r13_no_clock_makes_a_negative_duration() {
        for (began, ended) in [(1000.0, 999.0), (1000.0, 1000.0 - 86_400.0), (1000.0, 1000.0 + 315_360_000.0)] {
            let mut job = Record::example("a").job;
            assert!(advance(&mut job, Cause::Claimed, began));
            job.started_at = Some(began);
            assert!(advance(&mut job, Cause::Lost, ended));
            assert!(job.finished_at.unwrap() >= began, "{ended}");
        }
    }
}
