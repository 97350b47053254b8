//! Parts that pages are made of.

pub mod chart;
pub mod dialog;
pub mod field;
pub mod icon;
pub mod job;
pub mod making;
pub mod metric;
pub mod note;
mod pulls;
pub mod queue;
pub mod shell;
pub mod source;

pub use dialog::Dialog;
pub use field::Field;
pub use icon::icon;
pub use note::{Empty, ProblemNote};
pub use pulls::Pulls;
