//! One function for each thing that a run is made of.

use crate::{
    Error, Places, Result,
    data::{Encoder, Samples},
    files::{ModelFiles, digest, write_atomically},
    train::{Order, Sampler},
};
use api::{RunConfig, params::ModelParams};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// Settings that say where a run stands and how it is told of, and nothing of its result.
const PLACES: [&str; 5] =
    ["output_dir", "run_name", "overwrite_output_dir", "resume_from_checkpoint", "preprocessing_num_workers"];
/// Samples that are read together.
const TOGETHER: usize = 256;

/// Hash of a configuration. The order of its keys doesn't matter, and neither does where the run stands.
pub fn config(config: &RunConfig) -> String {
    let parts: BTreeMap<&str, String> = settings(config).map(|(key, value)| (key, value.to_string())).collect();
    let parts = parts.iter().flat_map(|(key, value)| [*key, value.as_str()]);
    digest::hex(&digest::of_parts(parts))
}

/// The settings that a result may depend on.
pub(super) fn settings(config: &RunConfig) -> impl Iterator<Item = (&str, &Value)> {
    config.0.iter().map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !PLACES.contains(key))
}

/// Hash of a base model's files with its config.json, and of the adapters that a run begins with.
pub fn weights(files: &ModelFiles, params: &ModelParams, known: &FileHashes) -> Result<String> {
    let mut paths: Vec<PathBuf> = files.paths().map(Path::to_path_buf).collect();
    for adapter in params.adapters() {
        paths.extend(weight_files(Path::new(adapter))?);
    }
    let mut parts = vec![files.config().to_string()];
    parts.extend(known.of(&paths)?);
    Ok(digest::hex(&digest::of_parts(parts.iter().map(String::as_str))))
}

/// Hash of everything that decides how a row becomes tokens and a loss mask.
pub fn tokenizer(encoder: &Encoder) -> Result<String> {
    encoder.fingerprint()
}

/// Hash of encoded samples in their order: tokens, which of them are trained, marks.
pub fn data(samples: &Samples) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update((samples.len() as u64).to_le_bytes());
    let all: Vec<u32> = (0..samples.len() as u32).collect();
    for some in all.chunks(TOGETHER) {
        let batch = samples.batch(some)?;
        let lengths = batch.lengths.iter().map(|length| *length as u32);
        let words = batch.ids.iter().copied().chain(lengths).chain(batch.rows.iter().copied());
        let marks = batch.marks.iter().map(|mark| mark.to_bits());
        let bytes: Vec<u8> = words.chain(marks).flat_map(u32::to_le_bytes).collect();
        hash.update(bytes);
        crate::pulse::beat();
    }
    Ok(digest::hex(&hash.finalize()))
}

/// Hash of the order of the samples: that of the first epoch, and what the others follow from.
pub fn order(sampler: &Sampler) -> String {
    let Sampler { samples, batch, accumulation, seed, order } = sampler;
    let kind: u64 = match order {
        Order::Random => 0,
        Order::Grouped(_) => 1,
        Order::AsGiven => 2,
        Order::Listed(_) => 3,
    };
    let mut hash = Sha256::new();
    [*samples as u64, *batch as u64, *accumulation as u64, *seed, kind]
        .iter()
        .for_each(|n| hash.update(n.to_le_bytes()));
    for step in sampler.clone().steps(0).take(sampler.steps_per_epoch() as usize) {
        step.iter().flatten().for_each(|index| hash.update(index.to_le_bytes()));
    }
    digest::hex(&hash.finalize())
}

/// Weights that a run left: their hashes by path within the folder. Checkpoints are on the way to them, not results.
pub(super) fn results(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    for entry in fs::read_dir(dir).map_err(Error::io(dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with("checkpoint-") && !name.starts_with('.') {
            folders.push(entry.path());
        }
    }
    for path in folders.iter().map(|folder| weight_files(folder)).collect::<Result<Vec<_>>>()?.concat() {
        let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        found.insert(name, digest::of_file(&path).map_err(Error::io(&path))?.1);
    }
    Ok(found)
}

/// The safetensors files of a folder, by name; a path to a file is that file.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).map_err(Error::io(path))?.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort();
    Ok(files)
}

/// Hashes of large files, remembered by path, size and time of change: a model is read whole once, not before each run.
pub struct FileHashes {
    file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    /// Nanoseconds since 1970.
    changed: u64,
    sha256: String,
}

impl FileHashes {
    /// Those of this data folder.
    pub fn at(places: &Places) -> Self {
        Self { file: places.home.join("cache/hashes.json") }
    }

    /// SHA-256 of each file, in hexadecimal digits.
    pub fn of(&self, paths: &[PathBuf]) -> Result<Vec<String>> {
        let mut known: BTreeMap<PathBuf, Known> =
            fs::read(&self.file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let before = known.clone();
        let mut found = Vec::with_capacity(paths.len());
        for path in paths {
            let path = path.canonicalize().map_err(Error::io(path))?;
            let about = fs::metadata(&path).map_err(Error::io(&path))?;
            let changed = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let changed = changed.map_or(0, |time| time.as_nanos() as u64);
            let bytes = about.len();
            let sha256 = match known.get(&path).filter(|known| (known.bytes, known.changed) == (bytes, changed)) {
                Some(known) => known.sha256.clone(),
                None => digest::of_file(&path).map_err(Error::io(&path))?.1,
            };
            found.push(sha256.clone());
            known.insert(path, Known { bytes, changed, sha256 });
        }
        if known != before {
            known.retain(|path, _| path.exists());
            self.remember(&known);
        }
        Ok(found)
    }

    /// Two processes at once may lose an entry, which is found again by the next run; a folder that can't be written only
    /// costs time.
    fn remember(&self, known: &BTreeMap<PathBuf, Known>) {
        let written = self.file.parent().map(fs::create_dir_all).transpose().ok();
        if let (Some(_), Ok(text)) = (written, serde_json::to_vec_pretty(known)) {
            let _ = write_atomically(&self.file, text);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Sequence, SpoolWriter};
    use serde_json::json;

    fn of(value: Value) -> RunConfig {
        RunConfig(value.as_object().unwrap().clone())
    }

    #[test]
    fn a_configuration_is_what_it_says_not_how_or_where() {
        let one = config(&of(json!({"seed": 1, "dataset": "a", "run_name": "x"})));
        assert_eq!(one, config(&of(json!({"dataset": "a", "output_dir": "/y", "seed": 1}))));
        assert_ne!(one, config(&of(json!({"dataset": "a", "seed": 2}))));
        assert_ne!(one, config(&of(json!({"dataset": "a"}))));
    }

    #[test]
    fn data_and_order_are_told_apart_by_every_token_mask_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let samples = |rows: &[(&[u32], bool)]| {
            let mut spool = SpoolWriter::nameless(dir.path()).unwrap();
            for (ids, last_only) in rows {
                let mut sequence = Sequence::all(ids.to_vec());
                if *last_only {
                    sequence.trained = (1..=ids.len()).map(|i| i == ids.len()).collect();
                }
                spool.push(&sequence).unwrap();
            }
            Samples::whole(spool).unwrap()
        };
        let hash = |rows: &[(&[u32], bool)]| data(&samples(rows)).unwrap();
        let one = hash(&[(&[1, 2, 3], false), (&[4, 5], false)]);
        assert_eq!(one, hash(&[(&[1, 2, 3], false), (&[4, 5], false)]));
        for other in [
            hash(&[(&[1, 2, 3], true), (&[4, 5], false)]),
            hash(&[(&[4, 5], false), (&[1, 2, 3], false)]),
            hash(&[(&[1, 2], false), (&[3, 4, 5], false)]),
            hash(&[(&[1, 2, 3], false)]),
        ] {
            assert_ne!(one, other);
        }
        let sampler = Sampler { samples: 9, batch: 2, accumulation: 2, seed: 1, order: Order::Random };
        assert_eq!(order(&sampler), order(&sampler.clone()));
        for other in [
            Sampler { seed: 2, ..sampler.clone() },
            Sampler { order: Order::AsGiven, ..sampler.clone() },
            Sampler { batch: 1, accumulation: 4, ..sampler.clone() },
        ] {
            assert_ne!(order(&sampler), order(&other));
        }
    }

    #[test]
    fn a_file_is_read_again_only_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { home: dir.path().into(), hub_cache: dir.path().into() };
        let (known, path) = (FileHashes::at(&places), dir.path().join("w.safetensors"));
        fs::write(&path, "abc").unwrap();
        let paths = [path.clone()];
        let first = known.of(&paths).unwrap();
        assert_eq!(first[0], digest::of_file(&path).unwrap().1);
        // What is remembered is used: a wrong entry is believed.
        let wrong = fs::read_to_string(&known.file).unwrap().replace(&first[0], "remembered");
        fs::write(&known.file, wrong).unwrap();
        assert_eq!(known.of(&paths).unwrap(), ["remembered"]);
        fs::write(&path, "abcd").unwrap();
        assert_eq!(known.of(&paths).unwrap()[0], digest::of_file(&path).unwrap().1);
        fs::write(&known.file, "{").unwrap();
        assert_eq!(known.of(&paths).unwrap()[0], digest::of_file(&path).unwrap().1);
    }
}
