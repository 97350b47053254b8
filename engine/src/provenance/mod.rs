//! Where a run's result comes from: hashes of everything that it was made of, and what it was made with. It stands in
//! `RUN_DIR/provenance.json`, so that a run can be made again and two runs can be held against each other.

mod difference;
mod hashes;

pub use difference::{Difference, difference};
pub use hashes::{FileHashes, config, data, order, tokenizer, weights};

use crate::{Error, Places, Result, files::write_atomically, prepare::Prepared};
use api::{Plan, RunConfig};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// Its name in a run folder.
pub const FILE: &str = "provenance.json";

/// What a run is made of. Two runs with equal provenance, `results` aside, have equal results to the bit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub program: Program,
    pub machine: Machine,
    /// Exactly as it was asked for.
    pub config: RunConfig,
    pub hashes: Hashes,
    /// SHA-256 of each file that the run left for use elsewhere, once it has ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub results: BTreeMap<String, String>,
}

/// The program that computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub version: String,
    /// Hash of the engine's sources and of the versions of all libraries, as the build saw them.
    pub code: String,
}

/// What it computed with. The same values are summed in another order by other instructions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Numbers and instructions, for example `bf16, AMX`.
    pub compute: String,
    pub threads: usize,
}

/// SHA-256 of what went in, in hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hashes {
    /// The settings that the result depends on.
    pub config: String,
    /// The base model with its config.json, and the adapters that the run begins with.
    pub weights: String,
    /// Tokenizer, template and what else decides how a row becomes tokens.
    pub tokenizer: String,
    /// Tokens, loss masks and marks of the samples that are learned, in their order, and of those that are held back.
    pub data: String,
    pub held_back: String,
    /// Which samples each step takes.
    pub order: String,
}

impl Program {
    /// The one that runs.
    pub fn this() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), code: env!("CODE").into() }
    }
}

impl Machine {
    /// This one, as a plan uses it.
    pub fn of(plan: &Plan) -> Self {
        let (device, compute) = (plan.device.clone(), plan.compute.clone());
        Self { device, compute, threads: rayon::current_num_threads() }
    }
}

impl Provenance {
    /// Of a run that is about to begin. Weights are read whole the first time that they are used.
    pub fn of(asked: &RunConfig, prepared: &Prepared, places: &Places) -> Result<Self> {
        let hashes = Hashes {
            config: config(asked),
            weights: weights(&prepared.files, &prepared.model, &FileHashes::at(places))?,
            tokenizer: tokenizer(&prepared.encoder)?,
            data: data(&prepared.samples)?,
            held_back: data(&prepared.eval)?,
            order: order(&prepared.sampler),
        };
        let machine = Machine::of(&prepared.plan);
        Ok(Self { program: Program::this(), machine, config: asked.clone(), hashes, results: BTreeMap::new() })
    }

    /// That of a run folder, if it has one.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }

    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        write_atomically(&dir.join(FILE), text)
    }

    /// Takes down what the run left in its folder: weights, in the folder itself or one below it, checkpoints aside.
    pub fn conclude(&mut self, dir: &Path) -> Result<()> {
        self.results = hashes::results(dir)?;
        self.write(dir)
    }
}
