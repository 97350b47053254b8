//! Checkpoints: written beside, synced, listed with sizes and sha256 in a manifest, renamed. A checkpoint counts only
//! when every file agrees with its manifest.

use crate::{
    Error, Result,
    files::{
        atomic::{replace_dir, write_atomically},
        digest,
    },
};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

const MANIFEST: &str = "manifest.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    step: u64,
    /// Size in bytes and sha256 of each file.
    files: BTreeMap<String, (u64, String)>,
}

/// Writes `DIR/checkpoint-STEP`; `save` writes the trained weights into the folder it is given. Returns name and bytes.
pub fn write(
    dir: &Path,
    step: u64,
    optimizer: &HashMap<String, Tensor>,
    state: &Value,
    save: impl FnOnce(&Path) -> Result<()>,
) -> Result<(String, u64)> {
    let name = format!("checkpoint-{step}");
    let (partial, whole) = (dir.join(format!("{name}.partial")), dir.join(&name));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io(&partial))?;
    }
    fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
    save(&partial)?;
    candle_core::safetensors::save(optimizer, partial.join(OPTIMIZER))?;
    write_atomically(&partial.join(STATE), super::log::pretty(state).as_bytes())?;
    let files = listing(&partial)?;
    let bytes = files.values().map(|(size, _)| size).sum();
    let manifest = serde_json::to_vec_pretty(&Manifest { step, files }).unwrap_or_default();
    write_atomically(&partial.join(MANIFEST), &manifest)?;
    replace_dir(&partial, &whole)?;
    Ok((name, bytes))
}

/// What is damaged in a checkpoint, a sentence for each file; empty if it is whole.
pub fn damage(checkpoint: &Path) -> Vec<String> {
    let Some(manifest) = manifest(checkpoint) else {
        return vec![format!("{MANIFEST} is missing or no JSON")];
    };
    let found = |name: &str| -> std::result::Result<(u64, String), String> {
        digest::of_file(&checkpoint.join(name)).map_err(|e| format!("{name}: {e}"))
    };
    let check = |(name, (size, sum)): (&String, &(u64, String))| match found(name) {
        Err(e) => Some(e),
        Ok((n, _)) if n != *size => Some(format!("{name} has {n} bytes instead of {size}")),
        Ok((_, s)) if s != *sum => Some(format!("{name} has changed since it was written")),
        Ok(_) => None,
    };
    manifest.files.iter().filter_map(check).collect()
}

/// The newest whole checkpoint of a run folder, with its step, and the damaged ones that were passed over.
pub fn newest(dir: &Path) -> (Option<(PathBuf, u64)>, Vec<String>) {
    let mut damaged = Vec::new();
    for (step, path) in all(dir).into_iter().rev() {
        let faults = damage(&path);
        if faults.is_empty() {
            return (Some((path, step)), damaged);
        }
        damaged.push(format!("{}: {}", path.file_name().unwrap_or_default().to_string_lossy(), faults.join("; ")));
    }
    (None, damaged)
}

/// Checkpoint folders of a run by step, whole or not.
pub fn all(dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let mut found: Vec<_> = entries.filter_map(|e| step(&e.path()).map(|s| (s, e.path()))).collect();
    found.sort();
    found
}

/// Removes the oldest checkpoints beyond `limit`; the newest must have been verified before.
pub fn prune(dir: &Path, limit: usize) -> Result<()> {
    let found = all(dir);
    for (_, path) in found.iter().take(found.len().saturating_sub(limit.max(1))) {
        fs::remove_dir_all(path).map_err(Error::io(path))?;
    }
    Ok(())
}

/// Bytes of the files of a folder, without its subfolders.
pub fn folder_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok());
    files.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// Step, optimizer state and trainer state of a checkpoint.
pub fn read(checkpoint: &Path) -> Result<(u64, HashMap<String, Tensor>, Value)> {
    let path = checkpoint.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let state: Value = serde_json::from_str(&text).map_err(|e| Error::Internal(format!("{}: {e}", path.display())))?;
    let step = manifest(checkpoint).map(|m| m.step).or(state["global_step"].as_u64()).unwrap_or(0);
    let optimizer = candle_core::safetensors::load(checkpoint.join(OPTIMIZER), &Device::Cpu)?;
    Ok((step, optimizer, state))
}

fn manifest(checkpoint: &Path) -> Option<Manifest> {
    serde_json::from_str(&fs::read_to_string(checkpoint.join(MANIFEST)).ok()?).ok()
}

/// Size and sha256 of each file of a flat folder.
fn listing(dir: &Path) -> Result<BTreeMap<String, (u64, String)>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, digest::of_file(&path).map_err(Error::io(&path))?);
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_checkpoint_is_named_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let save = |step: u64| {
            let tensors = HashMap::from([("m.a".into(), Tensor::new(&[step as f32], &Device::Cpu).unwrap())]);
            let state = serde_json::json!({"global_step": step});
            let weights = |d: &Path| fs::write(d.join("weights"), vec![7; 100]).map_err(Error::io(d));
            write(dir.path(), step, &tensors, &state, weights).unwrap()
        };
        save(5);
        assert_eq!(save(10).0, "checkpoint-10");
        assert_eq!(newest(dir.path()).0.unwrap().1, 10);
        let weights = dir.path().join("checkpoint-10/weights");
        fs::write(&weights, vec![7; 99]).unwrap();
        assert_eq!(damage(&dir.path().join("checkpoint-10")), ["weights has 99 bytes instead of 100"]);
        fs::write(&weights, vec![8; 100]).unwrap();
        let (whole, damaged) = newest(dir.path());
        assert_eq!(whole.unwrap().1, 5);
        assert_eq!(damaged, ["checkpoint-10: weights has changed since it was written"]);
        assert_eq!(read(&dir.path().join("checkpoint-5")).unwrap().0, 5);
        save(15);
        prune(dir.path(), 1).unwrap();
        assert_eq!(all(dir.path()).len(), 1);
    }
}
