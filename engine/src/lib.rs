//! Datasets and base weights in, checkpoints and text out. Opens no socket and no database, reads no argv and no
//! environment: what it needs to know of the machine comes in [`Places`].

pub mod adapters;
pub mod ask;
pub mod base;
pub mod bench;
pub mod catalog;
pub mod chat;
pub mod compute;
pub mod data;
pub mod device;
pub mod entry;
pub mod error;
pub mod estimate;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod generate;
pub mod kernels;
pub mod loaded;
pub mod make;
pub mod memory;
pub mod model;
pub mod places;
pub mod prepare;
pub mod provenance;
pub mod pulse;
pub mod random;
pub mod rewards;
pub mod run;
pub mod stages;
pub mod train;

pub use error::{Error, Result};
pub use places::Places;
