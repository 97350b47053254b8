//! `manifest.json`: what a checkpoint is of, what made it, and length and SHA-256 of each of its files. It is written last,
//! and has the SHA-256 of itself, so that no changed byte of a checkpoint goes unseen.

use crate::{
    files::digest::{hex, of_bytes},
    kernels::cpu,
    provenance::Provenance,
};
use api::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub const FILE: &str = "manifest.json";
/// The form that is written. Form 1 had step and files alone.
const FORMAT: u64 = 2;
/// A larger file is no manifest.
pub const LARGEST: u64 = 16 << 20;
/// Before the hash, which stands last.
const SUM: &str = "\"sum\": \"";
const DIGITS: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u64,
    /// Steps made.
    pub step: u64,
    /// Counts the saves of a run folder: a run that went back to an earlier checkpoint goes on counting.
    pub serial: u64,
    /// Id of the run.
    pub run: String,
    pub cursor: Cursor,
    pub origin: Origin,
    /// What the numbers of the run depend on, by argument; harmless arguments are left out.
    pub settings: Map<String, Value>,
    /// The best checkpoint of the run so far, where one is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<String>,
    /// Length in bytes and SHA-256 of each file.
    pub files: BTreeMap<String, (u64, String)>,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cursor {
    /// Place in the data: epochs, and samples of the present epoch that were used.
    pub epoch: f64,
    pub samples: u64,
    /// Entries of `log_history`.
    pub metrics: u64,
    /// Updates that the optimizer made.
    pub updates: u64,
    /// The last learning rate.
    pub learning_rate: f64,
}

/// What made a checkpoint, as far as its numbers depend on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    pub version: String,
    pub seed: u64,
    pub threads: u64,
    /// Instructions of the processor that are used.
    pub instructions: String,
    pub device: String,
    /// Of the settings, of the encoded samples in their order, and of the model and adapters that it began with.
    pub config: String,
    pub data: String,
    pub base: String,
}

impl Origin {
    /// Of a run that is about to begin.
    pub fn of(run: &Provenance, seed: u64) -> Self {
        let Provenance { program, machine, hashes, .. } = run;
        Self {
            version: program.version.clone(),
            seed,
            threads: machine.threads as u64,
            instructions: cpu::instructions().name().into(),
            device: machine.device.clone(),
            config: hashes.config.clone(),
            data: hashes.data.clone(),
            base: hashes.weights.clone(),
        }
    }
}

/// Form 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    step: u64,
    files: BTreeMap<String, (u64, String)>,
}

impl Manifest {
    /// As the file has it.
    pub fn sealed(&self) -> Vec<u8> {
        let value = serde_json::to_value(Self { format: FORMAT, ..self.clone() }).unwrap_or_default();
        let mut map = match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        map.insert("sum".into(), "0".repeat(DIGITS).into());
        let mut text = crate::train::log::pretty(&map.into()).into_bytes();
        let sum = hex(&of_bytes(&text));
        if let Some(at) = place_of_sum(&text) {
            text[at..at + DIGITS].copy_from_slice(sum.as_bytes());
        }
        text
    }

    /// Reads a manifest of either form; what is wrong with it otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self, Text> {
        let no_json = || Text::new("it is no manifest", "不是有效的清单");
        let value: Value = serde_json::from_slice(bytes).map_err(|_| no_json())?;
        let manifest = match value.get("format") {
            None => {
                let First { step, files } = serde_json::from_value(value).map_err(|_| no_json())?;
                Self { format: 1, step, files, ..Self::default() }
            }
            Some(format) if format.as_u64().is_some_and(|format| format > FORMAT) => {
                return Err(Text::new(
                    format!("it was written by a newer Lathe, as format {format}"),
                    format!("由更新版本的 Lathe 写出（格式 {format}）"),
                ));
            }
            Some(_) => {
                let manifest: Self = serde_json::from_value(value).map_err(|_| no_json())?;
                if manifest.format != FORMAT || !is_sealed(bytes) {
                    return Err(Text::new("it has changed since it was written", "写出后被更改"));
                }
                manifest
            }
        };
        let plain =
            |name: &String| !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != ".." && name != ".";
        match manifest.files.iter().find(|(name, (_, sum))| !plain(name) || sum.len() != DIGITS) {
            Some((name, _)) => Err(Text::new(
                format!("it names {name:?}, which is no file of a checkpoint"),
                format!("其中的 {name:?} 不是检查点的文件"),
            )),
            None => Ok(manifest),
        }
    }

    /// Bytes of all files that it names.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, (size, _)| sum.saturating_add(*size))
    }
}

fn place_of_sum(text: &[u8]) -> Option<usize> {
    let at = text.windows(SUM.len()).rposition(|window| window == SUM.as_bytes())? + SUM.len();
    (at + DIGITS <= text.len()).then_some(at)
}

/// Whether the hash that a text has is that of the text with zeros in its place.
fn is_sealed(text: &[u8]) -> bool {
    let Some(at) = place_of_sum(text) else { return false };
    let mut plain = text.to_vec();
    plain[at..at + DIGITS].fill(b'0');
    hex(&of_bytes(&plain)).as_bytes() == &text[at..at + DIGITS]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        let files = BTreeMap::from([("weights".to_string(), (3, "a".repeat(DIGITS)))]);
        Manifest { format: FORMAT, step: 7, serial: 2, run: "a".into(), files, ..Manifest::default() }
    }

    #[test]
    fn what_is_sealed_is_read_and_every_changed_bit_is_seen() {
        let bytes = manifest().sealed();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::parse(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn form_1_is_read_and_a_later_one_is_named() {
        let sum = "b".repeat(DIGITS);
        let first = json!({"step": 4, "files": {"weights": [3, sum]}}).to_string();
        let read = Manifest::parse(first.as_bytes()).unwrap();
        assert_eq!((read.format, read.step, read.bytes()), (1, 4, 3));
        let error = Manifest::parse(br#"{"format": 9}"#).unwrap_err();
        assert!(error.get("en").contains("newer") && error.get("zh").contains('9'));
        for name in ["../x", "", "a/b", ".."] {
            let outside = json!({"step": 4, "files": {name: [3, sum]}}).to_string();
            assert!(Manifest::parse(outside.as_bytes()).is_err(), "{name}");
        }
    }
}
