//! Whether the work advances: a count that every part of it raises, so that a worker that computes is told from one that
//! hangs. What it counts has no unit; only that it moves matters.

use std::sync::atomic::{AtomicU64, Ordering};

static WORK: AtomicU64 = AtomicU64::new(0);

/// Another piece of work is done: an operation on tensors, a row encoded, a part of a file read.
pub(crate) fn beat() {
    WORK.fetch_add(1, Ordering::Relaxed);
}

/// Pieces of work done by this process so far.
pub fn count() -> u64 {
    WORK.load(Ordering::Relaxed)
}
