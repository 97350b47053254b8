//! Checkpoints: written beside, synced, listed with sizes and sha256 in a manifest, renamed, read back. A checkpoint counts
//! only when every file agrees with its manifest.

mod best;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod faults;
mod keeper;
pub mod manifest;
mod resume;
mod settings;
mod space;
mod verify;
mod write;

pub use best::Best;
pub use keeper::{Keeper, Saved};
pub use manifest::{Cursor, Manifest, Origin};
pub use resume::{Chosen, choose};
pub use settings::{changes, not_bit_exact, settings};
pub use space::{Contents, Space, room_for};
pub use verify::{Fault, Report, damage, glance, manifest, told, verify};
pub use write::{clear_leftovers, remove, write};

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
/// Behind the name of a checkpoint that is being written, and of one that is being removed.
const PARTIAL: &str = ".partial";
const REMOVED: &str = ".removed";

/// A checkpoint that can't be used, and why.
#[derive(Clone, Debug)]
pub struct Damaged {
    pub path: PathBuf,
    pub faults: Vec<Fault>,
}

/// Checkpoint folders of a run with their steps, whole or not, in the order in which they were saved: that of the steps, but
/// for a run that went back to an earlier one. What has no readable manifest comes last.
pub fn all(dir: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter_map(|path| step_of(&path).map(|step| (step, path))).collect();
    found.sort_by_cached_key(|(step, path)| (order(path).unwrap_or(u64::MAX), *step));
    found
}

/// The newest whole checkpoint of a run folder, with its step, and the damaged ones that were passed over.
pub fn newest(dir: &Path) -> (Option<(PathBuf, u64)>, Vec<Damaged>) {
    let mut damaged = Vec::new();
    for (step, path) in all(dir).into_iter().rev() {
        let faults = damage(&path);
        if faults.is_empty() {
            return (Some((path, step)), damaged);
        }
        damaged.push(Damaged { path, faults });
    }
    (None, damaged)
}

/// The best checkpoint of a run folder, as the last one with a readable manifest knows it.
pub fn best(dir: &Path) -> Option<PathBuf> {
    let last = all(dir).into_iter().rev().find_map(|(_, path)| manifest(&path).ok())?;
    Some(dir.join(last.best?)).filter(|path| path.is_dir())
}

/// Whether a folder is a checkpoint, whole or not, and no run with several.
pub fn is_one(dir: &Path) -> bool {
    step_of(dir).is_some() || dir.join(manifest::FILE).exists()
}

/// Bytes of the files of a folder, without its subfolders.
pub fn folder_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.metadata().ok());
    files.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// State of the optimizer, and of the trainer (`trainer_state.json`).
pub fn read(checkpoint: &Path) -> Result<(HashMap<String, Tensor>, Value)> {
    let path = checkpoint.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let state: Value = serde_json::from_str(&text).map_err(|e| Error::Internal(format!("{}: {e}", path.display())))?;
    Ok((candle_core::safetensors::load(checkpoint.join(OPTIMIZER), &Device::Cpu)?, state))
}

/// The last part of a path, as checkpoints are told of.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the name of a checkpoint folder begins with; its step follows.
const PREFIX: &str = "checkpoint-";

/// The name of the checkpoint folder of a step.
fn folder(step: u64) -> String {
    format!("{PREFIX}{step}")
}

/// The step that the name of a checkpoint folder says.
fn step_of(checkpoint: &Path) -> Option<u64> {
    checkpoint.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// Which save of its run made a checkpoint; none where the manifest can't be read.
fn order(checkpoint: &Path) -> Option<u64> {
    manifest(checkpoint).ok().map(|manifest| manifest.serial)
}
