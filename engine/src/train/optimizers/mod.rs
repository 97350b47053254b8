//! Optimizers, `optim`: how gradients become steps. One file for each; one line here. Their state is saved by parameter
//! name, and nothing else is: a step depends on the state, the number of the step and the seed alone.

mod adafactor;
mod adamw;
mod adamw_8bit;
mod apollo;
mod badam;
mod each;
mod galore;
mod lion;
mod muon;
mod sgd;
mod subspace;
mod together;

pub use adamw::AdamW;
pub(super) use together::{groups, in_place, join};

use crate::{
    Error, Result,
    adapters::Tuning,
    model::{Grads, Layout, Store, blocks::MAGNITUDE},
};
use api::{
    Problem,
    params::{self, OptimizerParams, TrainParams},
};
use candle_core::Tensor;
use std::collections::HashMap;

/// An optimizer with its state.
pub trait Optimizer: Send {
    /// One step of size `rate` along `scale` times the gradients.
    fn step(&mut self, store: &Store, grads: &Grads, rate: f64, scale: f64) -> Result<()>;

    /// Whether the step just made left all that is trained finite. One that looks at its values while it makes them needn't
    /// read them all again.
    fn left_finite(&self, store: &Store) -> Result<bool> {
        super::clip::all_finite(store)
    }

    /// State as tensors, named `KIND.PARAMETER`.
    fn state(&self) -> HashMap<String, Tensor>;

    /// Takes up a state that [`state`](Self::state) gave, after `steps` steps.
    fn restore(&mut self, store: &Store, state: HashMap<String, Tensor>, steps: u64) -> Result<()>;
}

/// One entry of the registry.
pub struct Entry {
    pub optim: params::Optimizer,
    pub start: fn(&TrainParams, &OptimizerParams) -> Box<dyn Optimizer>,
    /// Bytes of state for so many trained values, about.
    pub bytes: fn(u64) -> u64,
    /// Acts on the weights of layers, so that an adapter gives it nothing to do.
    pub whole: bool,
}

pub static OPTIMIZERS: &[Entry] = &[
    adamw::ENTRY,
    adamw_8bit::ENTRY,
    sgd::ENTRY,
    adafactor::ENTRY,
    lion::ENTRY,
    muon::ENTRY,
    galore::ENTRY,
    apollo::ENTRY,
    badam::ENTRY,
];

/// The optimizer of a run at its first step.
pub fn start(train: &TrainParams, more: &OptimizerParams) -> Result<Box<dyn Optimizer>> {
    Ok((entry(train, more)?.start)(train, more))
}

/// Whether the weight decay acts on a parameter: on matrices, and on DoRA's magnitudes, which are neither norms nor biases.
/// So transformers has it.
fn is_decayed(name: &str, dims: &[usize]) -> bool {
    dims.len() > 1 || name.ends_with(MAGNITUDE)
}

/// Bytes of the state of a run's optimizer for so many trained values.
pub fn bytes(train: &TrainParams, more: &OptimizerParams, trainable: u64) -> u64 {
    let average = if more.ema_decay > 0.0 { trainable * 4 } else { 0 };
    average + entry(train, more).map_or(0, |entry| (entry.bytes)(trainable))
}

/// What of a run's settings its optimizer can't do.
pub fn check(train: &TrainParams, more: &OptimizerParams, tuning: &dyn Tuning, layout: &dyn Layout) -> Result<()> {
    super::schedule::check(train, more)?;
    let (entry, field) = (entry(train, more)?, switches(more).next().map_or("optim", |(_, field)| field));
    let trains_layers = layout.layer_linears().iter().any(|l| tuning.trains(&format!("{}.weight", l.name)));
    if !entry.whole || trains_layers {
        return Ok(());
    }
    let (optim, tuning) = (name(entry.optim), &train.finetuning_type);
    Err(Problem::new(
        "optimizer_needs_weights",
        format!("{optim} steps through the weights of whole layers, but {tuning} leaves these frozen."),
        format!("{optim} 作用于整层的权重，而 {tuning} 将其冻结。"),
    )
    .hint(
        "Set finetuning_type to full, or optim to adamw_torch or adamw_8bit.",
        "请将 finetuning_type 设为 full，或将 optim 设为 adamw_torch 或 adamw_8bit。",
    )
    .field(field)
    .into())
}

/// The entry that `optim` and LLaMA-Factory's switches name.
fn entry(train: &TrainParams, more: &OptimizerParams) -> Result<&'static Entry> {
    let mut on = switches(more);
    let (first, second) = (on.next(), on.next());
    if let (Some((_, a)), Some((_, b))) = (first, second) {
        return Err(two(a, b));
    }
    let optim = match first {
        Some((optim, field)) if train.optim != params::Optimizer::default() && train.optim != optim => {
            return Err(two(&format!("optim {}", name(train.optim)), field));
        }
        Some((optim, _)) => optim,
        None => train.optim,
    };
    OPTIMIZERS
        .iter()
        .find(|entry| entry.optim == optim)
        .ok_or_else(|| Error::Internal(format!("no optimizer {}", name(optim))))
}

/// LLaMA-Factory's switches that are on, with what they say as `optim`.
fn switches(more: &OptimizerParams) -> impl Iterator<Item = (params::Optimizer, &'static str)> {
    use params::Optimizer::{Apollo, Badam, Galore, Muon};
    [
        (more.use_muon, Muon, "use_muon"),
        (more.use_galore, Galore, "use_galore"),
        (more.use_apollo, Apollo, "use_apollo"),
        (more.use_badam, Badam, "use_badam"),
    ]
    .into_iter()
    .filter_map(|(on, optim, field)| on.then_some((optim, field)))
}

/// The word of `optim`.
fn name(optim: params::Optimizer) -> String {
    serde_json::to_value(optim).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn two(a: &str, b: &str) -> Error {
    Problem::new(
        "two_optimizers",
        format!("{a} and {b} name two optimizers."),
        format!("{a} 与 {b} 指定了两个优化器。"),
    )
    .hint("Leave one of them.", "请只保留其中一个。")
    .field(b)
    .into()
}
