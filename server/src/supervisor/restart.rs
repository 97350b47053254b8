//! When an interrupted job starts again by itself: after a pause that doubles, and only so often without getting further.

use api::{Problem, queue::Restart};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// Starts without getting further, the first one among them; 0 or 1: none is made by itself.
    pub most: u32,
    /// Before the second start; twice as long before each further one.
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { most: 5, first: Duration::from_secs(10), longest: Duration::from_secs(600) }
    }
}

/// The starts of a job, as its event file tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempts {
    /// Starts since the job last got further.
    pub count: u32,
    /// The furthest step of all, and what it was at the last start.
    pub furthest: u64,
    pub from: u64,
    /// Whether the last one ended because the memory ran out.
    pub out_of_memory: bool,
}

impl Attempts {
    /// The job was started.
    pub fn began(&mut self) {
        self.count += 1;
        self.from = self.furthest;
    }

    /// The job made a step, or whatever it counts.
    pub fn reached(&mut self, step: u64) {
        self.furthest = self.furthest.max(step);
        if self.furthest > self.from {
            self.count = 1;
        }
    }
}

impl Restarts {
    /// The next start of a job that was interrupted now.
    pub fn next(&self, attempts: &Attempts, now: f64) -> Option<Restart> {
        let attempt = attempts.count.max(1) + 1;
        let wait = self.first.saturating_mul(1 << (attempt - 2).min(20)).min(self.longest);
        (attempt <= self.most).then_some(Restart { attempt, of: self.most, at: now + wait.as_secs_f64() })
    }

    /// Seconds until a start that was set for `at`: never more than the longest pause, wherever the clock went.
    pub fn left(&self, restart: &Restart, now: f64) -> f64 {
        (restart.at - now).clamp(0.0, self.longest.as_secs_f64())
    }
}

/// The problem of a job that was started in vain too often.
pub fn gave_up(problem: Problem, attempts: &Attempts, out_of_memory: bool) -> Problem {
    let (count, step) = (attempts.count, attempts.furthest);
    let (en, zh) = if out_of_memory {
        (
            "The memory ran out twice in a row, so it isn't started again by itself. ".into(),
            "内存连续两次不足，因此不再自动启动。".into(),
        )
    } else {
        (
            format!(
                "It was started {count} times without getting beyond step {step}, so it isn't started again by itself. "
            ),
            format!("已启动 {count} 次仍未超过第 {step} 步，因此不再自动启动。"),
        )
    };
    let hints = [problem.hint_in("en").to_owned(), problem.hint_in("zh").to_owned()];
    problem.hint(en + &hints[0], zh + &hints[1])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_attempts_end() {
        let restarts = Restarts::default();
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        loop {
            attempts.began();
            attempts.reached(7);
            let Some(restart) = restarts.next(&attempts, 100.0) else { break };
            assert_eq!((restart.attempt, restart.of), (attempts.count + 1, 5));
            pauses.push(restart.at - 100.0);
        }
        // The first of them reached step 7 for the first time.
        assert_eq!(pauses, [10.0, 20.0, 40.0, 80.0]);
        assert_eq!(attempts.count, 5);
        let hint = gave_up(Problem::new("x", "x", "x").hint("Resume it.", "请继续。"), &attempts, false).hint;
        assert!(hint.contains("5 times") && hint.contains("step 7") && hint.ends_with("Resume it."), "{hint}");
    }

    #[test]
    fn a_newer_step_begins_to_count_anew() {
        let mut attempts = Attempts { count: 4, furthest: 30, from: 30, out_of_memory: false };
        attempts.began();
        attempts.reached(25);
        attempts.reached(30);
        assert_eq!(attempts.count, 5, "steps made again are none further");
        attempts.reached(31);
        assert_eq!(attempts.count, 1);
    }

    #[test]
    fn the_switch_is_off_below_two() {
        for most in [0, 1] {
            let restarts = Restarts { most, ..Restarts::default() };
            assert_eq!(restarts.next(&Attempts::default(), 0.0), None);
        }
    }

    #[test]
    fn r13_a_clock_that_jumps_back_holds_up_no_restart() {
        let restarts = Restarts::default();
        let restart = restarts.next(&Attempts::default(), 1e9).unwrap();
        for (jump, left) in [(0.0, 10.0), (-86_400.0, 600.0), (-3600.0, 600.0), (86_400.0, 0.0), (315_360_000.0, 0.0)] {
            assert_eq!(restarts.left(&restart, 1e9 + jump), left, "{jump}");
        }
    }
}
