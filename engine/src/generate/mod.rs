//! Text out, by one engine for chat, rollouts and all that asks a model.

pub mod batch;
mod beams;
mod engine;
mod format;
mod held;
mod rules;
mod sample;
mod speaker;
mod task;
mod text;

pub use engine::{Answer, Engine, Request, Said, TOGETHER, Ticket};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// A seed that is another one each time.
pub fn any_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64)
}
