//! Tuning types, `finetuning_type`: what is trained, and how that is saved. One file for each; one line here.

mod full;
pub mod lora;

use crate::{
    Result,
    entry::{Entry, find},
    files::ModelFiles,
    model::{Attach, DecoderConfig, Model, Store},
};
use api::{Problems, RunConfig};
use std::path::Path;

/// A tuning type.
pub trait Adapter: Entry {
    /// The tuning of one run. `previous` is an adapter of this type to go on from.
    fn start(&self, config: &RunConfig, previous: Option<&Path>) -> Result<Box<dyn Tuning>, Problems>;
}

/// One run's tuning: attaches itself to the model while that is built, and saves what was trained.
pub trait Tuning: Attach {
    /// Parameters that would be trained, and the linears that carry them, without building anything.
    fn count(&self, config: &DecoderConfig) -> Result<(u64, Vec<String>)>;

    /// Whether a pass through the base alone (`Weights::Base`) is the model as it was before the run: what is attached can be
    /// switched off, no base weight is trained, and the tuning begins with no values of its own.
    fn switches_off(&self) -> bool {
        false
    }

    /// Puts parameters in place that are trained whole and begin with other values than the model's files have.
    fn place(&self, model: &Model) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// Writes what was trained, in the format that the field reads, into an existing folder.
    fn save(&self, dir: &Path, model: &Model, store: &Store, base: &Base, precision: Precision) -> Result<()>;
}

/// How exactly trained values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As they are in memory, so that a resumed run goes on from the same bits.
    Exact,
    /// As the base model stores its weights.
    Storage,
}

/// The model that a run started from.
pub struct Base<'a> {
    pub files: &'a ModelFiles,
    /// As `model_name_or_path` named it.
    pub name: &'a str,
}

pub static ADAPTERS: &[&dyn Adapter] = &[&lora::Lora, &full::Full];

/// The tuning type of this name.
pub fn adapter(name: &str) -> Result<&'static dyn Adapter> {
    find(ADAPTERS, ["tuning type", "训练方式"], "finetuning_type", name)
}

/// Names of the linears of a decoder that an adapter may change, with their (in, out).
pub fn linears(config: &DecoderConfig) -> Vec<(String, usize, usize)> {
    let all = (0..config.layers).flat_map(|i| config.layer(i).linears());
    all.map(|linear| (linear.name, linear.inp, linear.out)).collect()
}
