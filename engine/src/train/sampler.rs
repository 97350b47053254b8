//! The order of samples: a pure function of seed, epoch and step, so that the position of a run is one number.

use crate::random::Random;
use std::{cmp::Reverse, sync::Arc};

/// Stream of the random numbers that order the samples.
const STREAM: u64 = 0x5A4D;

#[derive(Clone, Debug)]
pub struct Sampler {
    pub samples: usize,
    pub batch: usize,
    pub accumulation: usize,
    pub seed: u64,
    pub order: Order,
}

/// The order of an epoch's samples.
#[derive(Clone, Debug)]
pub enum Order {
    Random,
    /// Samples of like length go together (`group_by_length`); of each sample, its tokens.
    Grouped(Arc<[u32]>),
    /// As the files have them (`disable_shuffling`).
    AsGiven,
    /// These samples.
    Listed(Arc<[u32]>),
}

impl Sampler {
    /// Optimizer steps of an epoch; the last may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.batch).div_ceil(self.accumulation) as u64
    }

    /// Micro-batches (indices of samples) of step `step`, counted from 0.
    pub fn step(&self, step: u64) -> Vec<Vec<u32>> {
        self.step_of(&self.order(self.epoch(step)), step)
    }

    /// The micro-batches of the steps from `from` on, without end; orders each epoch once.
    pub fn steps(self, from: u64) -> impl Iterator<Item = Vec<Vec<u32>>> + Send {
        let mut known: Option<(u64, Vec<u32>)> = None;
        (from..).map(move |step| {
            let epoch = self.epoch(step);
            let (_, order) = match known.take() {
                Some(found) if found.0 == epoch => known.insert(found),
                _ => known.insert((epoch, self.order(epoch))),
            };
            self.step_of(order, step)
        })
    }

    fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch().max(1)
    }

    fn step_of(&self, order: &[u32], step: u64) -> Vec<Vec<u32>> {
        let size = self.batch * self.accumulation;
        let start = (step % self.steps_per_epoch().max(1)) as usize * size;
        order[start..(start + size).min(order.len())].chunks(self.batch).map(<[u32]>::to_vec).collect()
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        if let Order::Listed(order) = &self.order {
            return order.to_vec();
        }
        let mut order: Vec<u32> = (0..self.samples as u32).collect();
        if matches!(self.order, Order::AsGiven) {
            return order;
        }
        Random::new(self.seed, STREAM.wrapping_add(epoch << 16)).shuffle(&mut order);
        if let Order::Grouped(lengths) = &self.order {
            group(&mut order, lengths, self.batch * self.accumulation);
        }
        order
    }
}

/// Sorts a random order by length, longest first, in stretches of up to 50 steps; the longest sample of all comes first, so
/// that a step that needs too much memory is the first one. transformers' `get_length_grouped_indices`.
fn group(order: &mut [u32], lengths: &[u32], step: usize) {
    let length = |i: &u32| lengths[*i as usize];
    let stretch = (order.len() / (step * 4)).clamp(1, 50) * step;
    order.chunks_mut(stretch).for_each(|some| some.sort_by_key(|i| Reverse(length(i))));
    let firsts = (0..order.len()).step_by(stretch);
    if let Some(longest) = firsts.min_by_key(|at| Reverse(length(&order[*at]))) {
        order.swap(0, longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_each_sample_once_in_an_order_of_its_own() {
        for (samples, batch, accumulation) in [(10, 3, 2), (7, 8, 1), (64, 4, 4), (1, 1, 1)] {
            for order in [Order::Random, Order::Grouped((0..samples as u32).map(|i| i * 7 % 5).collect())] {
                let sampler = Sampler { samples, batch, accumulation, seed: 1, order };
                let steps = sampler.steps_per_epoch();
                let epoch = |e: u64| -> Vec<u32> {
                    (e * steps..(e + 1) * steps).flat_map(|s| sampler.step(s)).flatten().collect()
                };
                let (mut first, second) = (epoch(0), epoch(1));
                assert!(samples < 7 || first != second);
                first.sort_unstable();
                assert_eq!(first, (0..samples as u32).collect::<Vec<_>>());
                for from in [0, 1, steps] {
                    let walked: Vec<_> = sampler.clone().steps(from).take(2 * steps as usize + 1).collect();
                    let asked: Vec<_> = (from..).take(walked.len()).map(|s| sampler.step(s)).collect();
                    assert_eq!(walked, asked);
                }
            }
        }
    }

    #[test]
    fn grouped_batches_hold_samples_of_like_length_the_longest_first() {
        let lengths: Arc<[u32]> = (0..1000).map(|i| i * 379 % 1000).collect();
        let sampler = |order| Sampler { samples: 1000, batch: 5, accumulation: 2, seed: 3, order };
        let spread = |order: Order| -> u32 {
            let sampler = sampler(order);
            let batches = (0..100).flat_map(|step| sampler.step(step));
            let spread = |batch: Vec<u32>| {
                let lengths: Vec<u32> = batch.iter().map(|i| lengths[*i as usize]).collect();
                lengths.iter().max().unwrap_or(&0) - lengths.iter().min().unwrap_or(&0)
            };
            batches.map(spread).sum()
        };
        let (grouped, random) = (spread(Order::Grouped(lengths.clone())), spread(Order::Random));
        assert!(grouped * 10 < random, "{grouped} {random}");
        assert_eq!(lengths[sampler(Order::Grouped(lengths.clone())).step(0)[0][0] as usize], 999);
    }

    #[test]
    fn the_given_order_is_that_of_every_epoch() {
        let sampler = Sampler { samples: 5, batch: 2, accumulation: 2, seed: 1, order: Order::AsGiven };
        let epoch = [vec![vec![0, 1], vec![2, 3]], vec![vec![4]]];
        assert_eq!(sampler.steps(0).take(4).collect::<Vec<_>>(), [epoch.clone(), epoch].concat());
    }
}
