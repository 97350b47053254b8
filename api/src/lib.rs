//! The vocabulary of Lathe: what a run is asked to do ([`config`], [`params`]), what will happen ([`plan`]),
//! what happened ([`event`], [`job`]), what went wrong ([`problem`]), what there is to choose from ([`catalog`]),
//! and the routes that carry all of it ([`routes`]). No IO, no async, no tensors.

pub mod calls;
pub mod catalog;
pub mod chat;
pub mod config;
pub mod data;
pub mod device;
pub mod event;
pub mod hub;
pub mod job;
pub mod memory;
pub mod model;
pub mod params;
pub mod plan;
pub mod preference;
pub mod problem;
pub mod question;
pub mod queue;
pub mod rollout;
pub mod routes;
pub mod session;
pub mod splitter;

pub use catalog::{Card, Catalog, Text};
pub use config::RunConfig;
pub use event::{Event, Line, Outcome};
pub use job::{Job, JobKind, JobState};
pub use plan::Plan;
pub use problem::{Problem, Problems};
