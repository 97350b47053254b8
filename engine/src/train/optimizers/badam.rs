//! BAdam (Luo et al., 2024): AdamW on one layer at a time, which begins anew with each layer. Embedding, head and the last
//! norm stay as they are, as in LLaMA-Factory. What a stage adds to the model, such as a value head, is trained with each
//! layer: nothing could be learned through a random one.

use super::{AdamW, Entry, Optimizer};
use crate::{
    Result,
    model::{Grads, Store},
    random::Random,
    stages::value_head,
};
use api::params::{self, BadamOrder, OptimizerParams, TrainParams};
use candle_core::Tensor;
use std::collections::{BTreeSet, HashMap};

pub const ENTRY: Entry = Entry {
    optim: params::Optimizer::Badam,
    start: |train, more| Box::new(BAdam::new(train, more)),
    bytes: |trainable| trainable / 2,
    whole: true,
};

/// Stream of the random order.
const STREAM: u64 = 0xBADA;

struct BAdam {
    train: TrainParams,
    order: BadamOrder,
    interval: u64,
    start: Option<usize>,
    /// Steps made.
    steps: u64,
    /// Of the present layer.
    inner: AdamW,
}

impl BAdam {
    fn new(train: &TrainParams, more: &OptimizerParams) -> Self {
        Self {
            train: train.clone(),
            order: more.badam_switch_mode,
            interval: more.badam_switch_interval,
            start: more.badam_start_block,
            steps: 0,
            inner: AdamW::new(train),
        }
    }

    /// The layer that is trained in the step after `self.steps`.
    fn layer(&self, store: &Store) -> Option<usize> {
        let layers: BTreeSet<usize> = store.trainable().filter_map(|p| layer_of(&p.name)).collect();
        let mut layers: Vec<usize> = layers.into_iter().collect();
        let count = layers.len().max(1);
        let turn = (self.steps / self.interval) as usize;
        let first = |default: usize| self.start.map_or(default, |start| start.min(count - 1));
        let place = match self.order {
            BadamOrder::Fixed => first(0),
            BadamOrder::Ascending => (first(0) + turn) % count,
            BadamOrder::Descending => (first(count - 1) + count - turn % count) % count,
            BadamOrder::Random => {
                Random::new(self.train.seed, STREAM + (turn / count) as u64).shuffle(&mut layers);
                turn % count
            }
        };
        layers.get(place).copied()
    }
}

impl Optimizer for BAdam {
    fn step(&mut self, store: &Store, grads: &Grads, rate: f64, scale: f64) -> Result<()> {
        if self.steps.is_multiple_of(self.interval) && self.order != BadamOrder::Fixed {
            self.inner = AdamW::new(&self.train);
        }
        let layer = self.layer(store);
        self.steps += 1;
        self.inner.step(
            store,
            &grads.only(|name| is_added(name) || (layer.is_some() && layer_of(name) == layer)),
            rate,
            scale,
        )
    }

    fn state(&self) -> HashMap<String, Tensor> {
        self.inner.state()
    }

    fn restore(&mut self, store: &Store, state: HashMap<String, Tensor>, steps: u64) -> Result<()> {
        self.steps = steps;
        let own = if self.order == BadamOrder::Fixed { steps } else { steps % self.interval };
        self.inner.restore(store, state, own)
    }
}

/// Whether a parameter is of a value head.
fn is_added(name: &str) -> bool {
    name.starts_with(value_head::PREFIX)
}

/// The number of the layer that a parameter belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}
