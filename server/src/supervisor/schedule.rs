//! What starts next, and what the others wait for. Pure, so that it can be tried in every order of events.

use super::slot::Slot;
use api::{JobState, Text};

/// A job that waits, as far as its start depends on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub id: String,
    /// The slots that it could run in, the best first; none if it needs none.
    pub fitting: Vec<Slot>,
    pub link: Option<Link>,
}

/// The job of its chain that has to succeed first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub before: String,
    /// Nothing if it is gone.
    pub state: Option<JobState>,
    /// Whether it starts again by itself.
    pub restarts: bool,
}

/// A job that runs, and what it takes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    pub id: String,
    /// Nothing where none is needed.
    pub slot: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Now, in this slot or in none.
    Start(Option<Slot>),
    Wait(Reason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Link(Link),
    /// The job that has what this one needs.
    Room(String),
    Paused,
}

/// A verdict on each waiting job, given in the order of their turn. `beside`: how many may run that need no slot.
pub fn decide(waiting: &[Candidate], busy: &[Busy], beside: usize, paused: bool) -> Vec<Verdict> {
    let mut busy = busy.to_vec();
    let mut verdicts = Vec::with_capacity(waiting.len());
    for job in waiting {
        let verdict = one(job, &busy, beside, paused);
        if let Verdict::Start(slot) = verdict {
            busy.push(Busy { id: job.id.clone(), slot });
        }
        verdicts.push(verdict);
    }
    verdicts
}

fn one(job: &Candidate, busy: &[Busy], beside: usize, paused: bool) -> Verdict {
    if let Some(link) = job.link.as_ref().filter(|link| link.state != Some(JobState::Succeeded)) {
        return Verdict::Wait(Reason::Link(link.clone()));
    }
    let room = room(&job.fitting, busy, beside);
    match room {
        _ if paused => Verdict::Wait(Reason::Paused),
        Ok(slot) => Verdict::Start(slot),
        Err(other) => Verdict::Wait(Reason::Room(other.to_owned())),
    }
}

/// The slot that a job could begin in now, none if it needs none, or the job that it has to wait for.
fn room<'a>(fitting: &[Slot], busy: &'a [Busy], beside: usize) -> Result<Option<Slot>, &'a str> {
    if fitting.is_empty() {
        let mut others = busy.iter().filter(|b| b.slot.is_none());
        let first = others.next();
        return match first {
            Some(first) if others.count() + 1 >= beside => Err(&first.id),
            _ => Ok(None),
        };
    }
    let is_free = |slot: &&Slot| busy.iter().all(|b| b.slot != Some(**slot));
    if let Some(slot) = fitting.iter().find(is_free) {
        return Ok(Some(*slot));
    }
    let holds_one = |b: &&Busy| b.slot.is_some_and(|slot| fitting.contains(&slot));
    Err(busy.iter().find(holds_one).map_or("", |b| &b.id))
}

impl Reason {
    /// For people.
    pub fn text(&self) -> Text {
        match self {
            Self::Paused => Text::new("The queue is paused", "队列已暂停"),
            Self::Room(other) => waiting(other, "", ""),
            Self::Link(link) => {
                let (en, zh) = match link.state {
                    Some(JobState::Stopped) => (", which was stopped: resume it", "，该任务已停止：请继续它"),
                    Some(JobState::Failed) => (", which failed: resume it", "，该任务失败：请继续它"),
                    Some(JobState::Interrupted) if link.restarts => {
                        (", which was interrupted and starts again by itself", "，该任务中断，将自动重新启动")
                    }
                    Some(JobState::Interrupted) => (", which was interrupted: resume it", "，该任务中断：请继续它"),
                    None => (", which is gone: delete this one", "，该任务已删除：请删除此任务"),
                    Some(_) => ("", ""),
                };
                waiting(&link.before, en, zh)
            }
        }
    }
}

fn waiting(before: &str, en: &str, zh: &str) -> Text {
    Text::new(format!("Waiting for {before}{en}"), format!("等待 {before} 完成{zh}"))
}
