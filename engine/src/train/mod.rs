//! Training: the loop, the optimizer, schedules, the order of samples, checkpoints, and the files that a run leaves.

mod before;
pub mod begin;
pub mod checkpoint;
mod clip;
mod ema;
mod fit;
mod loader;
pub(crate) mod log;
mod metrics;
pub mod optimizers;
mod sampler;
pub mod schedule;
mod sentinel;

pub use before::Before;
pub use clip::clip;
pub use ema::Average;
pub use fit::{Run, Update, fit};
pub use loader::Loader;
pub use log::TrainerLog;
pub use metrics::metrics;
pub use optimizers::{AdamW, Optimizer};
pub use sampler::{Order, Sampler};
