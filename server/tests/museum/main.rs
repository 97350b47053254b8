//! Attacks and loads over real sockets, each test named after its row: what other software of this kind has met, and what
//! this server promises. The guard's own are in `server/src/security/museum.rs`.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod files;
mod promises;
mod values;
