//! What happens to a run when something happens to its worker, with the real one: killed, stopped, out of memory, its files
//! cut. `LATHE_FAULTS` says how many faults of the most important kind there are (50); the others follow from it.
#![allow(clippy::unwrap_used)]

mod common;
mod memory;
mod provenance;
mod resume;
mod sentinels;
mod stop;
mod truncated;
