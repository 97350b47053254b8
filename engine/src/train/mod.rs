//! Training: the loop, the optimizer, schedules, the order of samples, checkpoints, and the files that a run leaves.

pub mod checkpoint;
mod clip;
mod fit;
mod loader;
mod log;
mod optimizer;
mod sampler;
pub mod schedule;

pub use clip::clip;
pub use fit::{Run, fit};
pub use loader::Loader;
pub use log::TrainerLog;
pub use optimizer::AdamW;
pub use sampler::{Order, Sampler};
