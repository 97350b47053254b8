//! The order of samples: a pure function of seed, epoch and step, so that the position of a run is one number.

use crate::random::Random;

/// Stream of the random numbers that order the samples.
const STREAM: u64 = 0x5A4D;

#[derive(Clone, Debug)]
pub struct Sampler {
    pub samples: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub seed: u64,
}

impl Sampler {
    /// Optimizer steps of an epoch; the last may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.batch).div_ceil(self.accumulation) as u64
    }

    /// Micro-batches (indices of samples) of step `step`, counted from 0.
    pub fn step(&self, step: u64) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch().max(1);
        let order = self.order(step / per_epoch);
        let size = self.batch * self.accumulation;
        let start = (step % per_epoch) as usize * size;
        order[start..(start + size).min(order.len())].chunks(self.batch).map(<[usize]>::to_vec).collect()
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples).collect();
        Random::new(self.seed, STREAM.wrapping_add(epoch << 16)).shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_each_sample_once_in_an_order_of_its_own() {
        for (samples, batch, accumulation) in [(10, 3, 2), (7, 8, 1), (64, 4, 4), (1, 1, 1)] {
            let sampler = Sampler { samples, batch, accumulation, seed: 1 };
            let steps = sampler.steps_per_epoch();
            let epoch = |e: u64| -> Vec<usize> {
                (e * steps..(e + 1) * steps).flat_map(|s| sampler.step(s)).flatten().collect()
            };
            let (mut first, second) = (epoch(0), epoch(1));
            assert!(samples < 7 || first != second);
            first.sort_unstable();
            assert_eq!(first, (0..samples).collect::<Vec<_>>());
        }
    }
}
