//! Where a run's result comes from: hashes of everything that it was made of, and what it was made with. It stands in
//! `RUN_DIR/provenance.json`, so that a run can be made again and two runs can be held against each other.

mod difference;
mod hashes;

pub use difference::{Difference, difference};
pub use hashes::{FileHashes, config, data, order, tokenizer, weights};

use crate::{Error, Places, Result, files::write_atomically, prepare::Prepared};
use api::{Plan, Problem, RunConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    /// Tokens, loss masks and marks of all samples, held back ones included.
    pub data: String,
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
            data: data([&prepared.samples, &prepared.eval])?,
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

    /// What to say where a run that `before` tells of goes on with another program or on another machine: from here on its
    /// values are as good, and not those of an unbroken run to the last bit.
    pub fn goes_on_otherwise(&self, before: &Self) -> Option<Problem> {
        let changed = difference(before, self).into_iter().filter(|d| matches!(d.group, "program" | "machine"));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let changed: Vec<String> =
            changed.map(|d| format!("{} {} -> {}", d.name, text(&d.values[0]), text(&d.values[1]))).collect();
        let changed = (!changed.is_empty()).then(|| changed.join(", "))?;
        let problem = Problem::new(
            "not_bit_exact",
            format!("The run goes on with something else than it began with ({changed}), so it is not bit-exact."),
            format!("此运行继续时的环境与开始时不同（{changed}），因此结果不再逐位一致。"),
        );
        Some(problem.hint(
            "The result is as good. For the same bits, resume it where and how it began.",
            "结果质量不受影响。若需逐位一致，请在与开始时相同的环境中继续。",
        ))
    }

    /// Takes down what the run left in its folder: weights, in the folder itself or one below it, checkpoints aside.
    pub fn conclude(&mut self, dir: &Path) -> Result<()> {
        self.results = hashes::results(dir)?;
        self.write(dir)
    }
}
