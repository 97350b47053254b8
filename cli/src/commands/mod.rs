//! One file for each command.

pub mod about;
pub mod api;
pub mod bench;
pub mod chat;
pub mod checkpoint;
pub mod compare;
pub mod data;
pub mod eval;
pub mod export;
pub mod models;
mod pairs;
pub mod train;
pub mod webui;
pub mod worker;
