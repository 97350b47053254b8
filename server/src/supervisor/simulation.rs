//! The queue in thousands of random lives: jobs, chains, stops, pauses, killed workers and servers, in every order that
//! a seed gives. It drives the same pure functions that the supervisor does.

use super::{
    ending::Ending,
    queue::go_on,
    restart::Restarts,
    schedule::{Busy, Candidate, Link, Verdict, decide},
    slot::Slot,
    states::{Cause, advance},
    watch::lose,
};
use crate::store::Record;
use api::{JobState, Outcome, Problem, queue::Priority};
use std::collections::BTreeMap;

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// One job with what only its worker knows.
struct Life {
    record: Record,
    place: usize,
    fitting: Vec<Slot>,
    /// Steps of its work, and where a worker stands that goes on.
    steps: u64,
    at: u64,
    /// The slot of its process, while there is one.
    process: Option<Option<Slot>>,
    /// A person ended it or it ended by itself: nothing but a person may start it.
    settled: bool,
    asked: bool,
}

struct World {
    dice: Dice,
    now: f64,
    lives: Vec<Life>,
    paused: bool,
    restarts: Restarts,
    trace: Vec<String>,
}

const GPUS: usize = 2;

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let restarts = Restarts { most: dice.below(5) as u32, ..Restarts::default() };
        Self { dice, now: 1e9, lives: Vec::new(), paused: false, restarts, trace: Vec::new() }
    }

    fn create(&mut self) {
        let number = self.lives.len();
        let mut record = Record::example(&format!("job-{number}"));
        record.job.priority = [Priority::Low, Priority::Normal, Priority::High][self.dice.below(3)];
        record.restarts = true;
        if number > 0 && self.dice.below(3) == 0 {
            record.job.after = Some(format!("job-{}", self.dice.below(number)));
        }
        let both = || (0..GPUS).map(Slot::Gpu).collect();
        let fitting = match self.dice.below(4) {
            0 => vec![],
            1 => vec![Slot::Cpu],
            2 => vec![Slot::Gpu(self.dice.below(GPUS))],
            _ => both(),
        };
        let steps = 1 + self.dice.below(5) as u64;
        let place = 1 + self.lives.iter().map(|life| life.place).max().unwrap_or(0);
        self.lives.push(Life { record, place, fitting, steps, at: 0, process: None, settled: false, asked: false });
    }

    fn claim(&mut self) {
        for life in &mut self.lives {
            let due =
                life.record.job.restart.as_ref().is_some_and(|restart| self.restarts.left(restart, self.now) <= 0.0);
            if due && life.record.job.state == JobState::Interrupted {
                assert!(!life.settled, "{} starts by itself", life.record.job.id);
                go_on(&mut life.record, true);
                assert!(advance(&mut life.record.job, Cause::Restarted, self.now));
            }
        }
        let mut order: Vec<usize> = (0..self.lives.len()).filter(|i| self.state(*i) == JobState::Queued).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(self.lives[*i].record.job.priority), self.lives[*i].place));
        let states: BTreeMap<String, (JobState, bool)> = self
            .lives
            .iter()
            .map(|life| (life.record.job.id.clone(), (life.record.job.state, life.record.job.restart.is_some())))
            .collect();
        let candidates: Vec<Candidate> = order
            .iter()
            .map(|i| {
                let life = &self.lives[*i];
                let link = life.record.job.after.clone().map(|before| {
                    let (state, restarts) = states.get(&before).copied().unzip();
                    Link { before, state, restarts: restarts.unwrap_or(false) }
                });
                Candidate { id: life.record.job.id.clone(), fitting: life.fitting.clone(), link }
            })
            .collect();
        let busy: Vec<Busy> = self
            .lives
            .iter()
            .filter_map(|life| Some(Busy { id: life.record.job.id.clone(), slot: life.process? }))
            .collect();
        let verdicts = decide(&candidates, &busy, 2, self.paused);
        for (n, (i, verdict)) in order.iter().zip(&verdicts).enumerate() {
            let Verdict::Start(slot) = verdict else { continue };
            assert!(!self.paused, "started while paused");
            let link = candidates[n].link.as_ref();
            assert!(link.is_none_or(|link| link.state == Some(JobState::Succeeded)), "started before its link");
            // Nobody who waits for the same was before it.
            let passed = order[..n].iter().zip(&verdicts).any(|(other, verdict)| {
                let free = candidates[..n].iter().any(|c| c.id == self.lives[*other].record.job.id && c.link.is_none());
                free && matches!(verdict, Verdict::Wait(_)) && self.lives[*other].fitting == self.lives[*i].fitting
            });
            assert!(!passed, "{} overtook", candidates[n].id);
            let life = &mut self.lives[*i];
            assert!(advance(&mut life.record.job, Cause::Claimed, self.now));
            life.record.job.started_at = Some(self.now);
            life.record.restarts = true;
            life.process = Some(*slot);
            life.asked = false;
            assert!(advance(&mut life.record.job, Cause::Began, self.now));
            life.record.attempts.began();
            assert!(life.record.attempts.count <= self.restarts.most.max(1), "{:?}", life.record.attempts);
        }
        let mut taken: Vec<Slot> = self.lives.iter().filter_map(|life| life.process.flatten()).collect();
        let all = taken.len();
        taken.sort_by_key(|slot| format!("{slot:?}"));
        taken.dedup();
        assert_eq!(taken.len(), all, "two jobs in one slot");
        assert!(self.lives.iter().filter(|life| life.process == Some(None)).count() <= 2);
    }

    fn state(&self, i: usize) -> JobState {
        self.lives[i].record.job.state
    }

    /// The worker of a job does something.
    fn work(&mut self, i: usize, calm: bool) {
        let (restarts, now) = (self.restarts, self.now);
        let what = if calm { 0 } else { self.dice.below(10) };
        let life = &mut self.lives[i];
        if life.process.is_none() {
            return;
        }
        match what {
            // Killed.
            8 => {
                life.process = None;
                lose(&mut life.record, Ending::Signal(9), life.asked, Problem::default(), &restarts, now);
                life.settled = life.record.job.restart.is_none();
                // It goes on from a checkpoint.
                life.at = life.at.saturating_sub(1);
            }
            9 => {
                assert!(advance(&mut life.record.job, Cause::Said(Outcome::Failed), now));
                (life.process, life.settled) = (None, true);
            }
            _ if life.asked => {
                assert!(advance(&mut life.record.job, Cause::Said(Outcome::Stopped), now));
                (life.process, life.settled) = (None, true);
            }
            _ => {
                life.at += 1;
                life.record.attempts.reached(life.at);
                if life.at >= life.steps {
                    assert!(advance(&mut life.record.job, Cause::Said(Outcome::Succeeded), now));
                    (life.process, life.settled) = (None, true);
                }
            }
        }
    }

    /// A person stops or resumes.
    fn order(&mut self, i: usize) {
        let (now, last) = (self.now, self.lives.iter().map(|life| life.place).max().unwrap_or(0));
        let life = &mut self.lives[i];
        let job = &mut life.record.job;
        let stops = job.state.is_active() || job.restart.is_some();
        if stops && advance(job, Cause::StopAsked, now) {
            life.record.restarts = false;
            life.asked = life.process.is_some();
            life.settled = true;
        } else if !stops && life.process.is_none() && advance(job, Cause::Resumed, now) {
            (life.record.restarts, life.record.attempts.count) = (true, 0);
            life.settled = false;
            life.place = 1 + last;
        }
    }

    /// The server is gone and comes back; some workers died meanwhile.
    fn crash(&mut self) {
        self.now += self.dice.below(100) as f64;
        for i in 0..self.lives.len() {
            let dies = self.dice.below(2) == 0;
            let (restarts, now) = (self.restarts, self.now);
            let life = &mut self.lives[i];
            if life.process.is_some() && dies {
                life.process = None;
                lose(&mut life.record, Ending::Unknown, false, Problem::default(), &restarts, now);
                life.settled = life.record.job.restart.is_none();
            }
        }
    }

    fn step(&mut self) {
        let what = self.dice.below(12);
        if what == 0 || self.lives.is_empty() {
            if self.lives.len() < 9 {
                self.create();
            }
        } else {
            let i = self.dice.below(self.lives.len());
            match what {
                1 => self.order(i),
                2 => self.paused = !self.paused,
                3 => self.crash(),
                // The clock goes on, or is set anywhere.
                4 => self.now += [1.0, 15.0, 700.0, -3600.0, 86_400.0][self.dice.below(5)],
                _ => self.work(i, false),
            }
            self.trace.push(format!("{what} {i}"));
        }
        self.claim();
        for life in &self.lives {
            let runs = matches!(life.record.job.state, JobState::Running | JobState::Stopping);
            assert_eq!(runs, life.process.is_some(), "{}", life.record.job.id);
            let (job, ended) = (&life.record.job, life.record.job.finished_at);
            assert!(ended.zip(job.started_at).is_none_or(|(end, start)| end >= start), "{}", job.id);
        }
    }

    /// Nothing goes wrong any more: everything that may start does, and ends.
    fn settle(&mut self) {
        self.paused = false;
        for _ in 0..400 {
            self.now += 700.0;
            self.claim();
            (0..self.lives.len()).for_each(|i| self.work(i, true));
        }
        for life in &self.lives {
            let job = &life.record.job;
            let before = job.after.as_ref().and_then(|id| self.lives.iter().find(|l| l.record.job.id == *id));
            let held_up = before.is_some_and(|b| b.record.job.state != JobState::Succeeded);
            let rests = match job.state {
                JobState::Queued => held_up,
                JobState::Interrupted => job.restart.is_none(),
                state => !state.is_active(),
            };
            assert!(rests, "{} stays {:?}: {:?}", job.id, job.state, self.trace);
        }
    }
}

#[test]
fn every_seed_of_the_queue_keeps_its_promises() {
    let seeds = std::env::var("LATHE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    for seed in 0..seeds {
        let lived = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..60).for_each(|_| world.step());
            world.settle();
        });
        assert!(lived.is_ok(), "seed {seed}");
    }
}
