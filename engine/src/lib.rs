//! Datasets and base weights in, checkpoints and text out. Opens no socket and no database, reads no argv and no
//! environment: what it needs to know of the machine comes in [`Places`].

pub mod data;
pub mod entry;
pub mod error;
pub mod files;
pub mod places;
pub mod random;

pub use error::{Error, Result};
pub use places::Places;
