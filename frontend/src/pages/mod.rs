//! One folder or file for each page.

pub mod chat;
pub mod data;
pub mod export;
pub mod preferences;
pub mod run;
pub mod runs;
pub mod train;

pub use train::facts as train_facts;
