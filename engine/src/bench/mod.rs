//! Benchmarks of training steps, of tuning methods, of generation, and of reading data, with a model or random weights of a known shape.

mod data;
mod generate;
mod methods;
mod packing;
mod rollouts;
mod subject;
mod train;

pub use data::{DataBench, DataReport, EncodeReport, data};
pub use generate::{ChatsReport, GenerateBench, GenerateReport, generate};
pub use methods::{MethodBench, MethodReport, method, methods};
pub use packing::{PackingReport, packing};
pub use rollouts::{RolloutBench, RolloutReport, rollouts};
pub use subject::{SHAPES, Subject};
pub use train::{TrainBench, TrainReport, train};

use crate::{Error, Result};
use serde::Serialize;

/// One operation's share of the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spent {
    pub name: &'static str,
    pub calls: u64,
    pub seconds: f64,
    /// Of the time that was measured.
    pub share: f64,
}

/// Computes on this many threads; must come before the first computation.
pub fn set_threads(threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|e| Error::Internal(format!("the number of threads could not be set: {e}")))
}

/// What was counted since the last call, as shares of `seconds`.
fn spent(seconds: f64) -> Vec<Spent> {
    let share = |(name, calls, s)| Spent { name, calls, seconds: s, share: s / seconds.max(1e-9) };
    crate::kernels::profile::take().into_iter().map(share).collect()
}

/// The value in the middle; that of an even number is the mean of the two in the middle. 0 if there is none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!([&[][..], &[3.0], &[3.0, 1.0], &[9.0, 1.0, 2.0]].map(median), [0.0, 3.0, 2.0, 2.0]);
    }
}
