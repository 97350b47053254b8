//! HTTP, the queue, the workers and all SQL.

pub mod hub;
