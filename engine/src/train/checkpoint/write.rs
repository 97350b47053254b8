//! How a checkpoint comes to be, so that a crash at any moment leaves the one before it whole and this one whole or
//! invisible: everything goes into `checkpoint-STEP.partial`, each file flushed; the manifest last; the folder flushed,
//! renamed, and its name flushed. Only then is it told of, and only when it was read back are others removed.

use super::{
    Manifest, OPTIMIZER, PARTIAL, PREFIX, REMOVED, STATE, folder, manifest, name,
    verify::{damage, listing, told},
};
use crate::{
    Error, Result,
    files::{
        atomic::{is_beside, replace_dir, write_atomically},
        disk, tensors,
    },
    train::log::pretty,
};
use candle_core::Tensor;
use serde_json::Value;
use std::{collections::HashMap, fs, io, path::Path};

/// Writes `DIR/checkpoint-STEP` for the step of `manifest`; `save` writes the trained weights into the folder it is given.
/// Reads it back, and gives name and bytes. After an error there is nothing of it.
pub fn write(
    dir: &Path,
    mut manifest: Manifest,
    optimizer: &HashMap<String, Tensor>,
    state: &Value,
    save: impl FnOnce(&Path) -> Result<()>,
) -> Result<(String, u64)> {
    let name = folder(manifest.step);
    let (partial, whole) = (dir.join(format!("{name}{PARTIAL}")), dir.join(&name));
    let written = fresh(&partial).and_then(|()| {
        save(&partial)?;
        let optimizer = optimizer.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        tensors::write(&partial.join(OPTIMIZER), &optimizer)?;
        write_atomically(&partial.join(STATE), pretty(state))?;
        manifest.files = listing(&partial)?;
        write_atomically(&partial.join(manifest::FILE), manifest.sealed())?;
        replace_dir(&partial, &whole)
    });
    if let Err(error) = written {
        // The first error is the one to tell. What can't be removed now is removed when the run starts again.
        let _ = disk::remove_dir(&partial);
        if super::order(&whole) == Some(manifest.serial) {
            // It has its name, but that may not last.
            let _ = remove(&whole);
        }
        return Err(error);
    }
    let faults = damage(&whole);
    if !faults.is_empty() {
        let _ = remove(&whole);
        let what = format!("what was written can't be read back: {}", told(&faults).en);
        return Err(Error::Io { path: whole, source: io::Error::new(io::ErrorKind::InvalidData, what) });
    }
    Ok((name, manifest.bytes()))
}

/// Removes a checkpoint: first its name, so that a crash leaves no half of it to be seen.
pub fn remove(checkpoint: &Path) -> Result<()> {
    let mut away = checkpoint.as_os_str().to_owned();
    away.push(REMOVED);
    let away = Path::new(&away);
    if away.exists() {
        disk::remove_dir(away).map_err(Error::io(away))?;
    }
    disk::rename(checkpoint, away).map_err(Error::io(checkpoint))?;
    disk::remove_dir(away).map_err(Error::io(away))
}

/// Removes what a killed process left of saves and removals. To be called by the one process that holds the run.
pub fn clear_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = name(&entry.path());
        let half = name.starts_with(PREFIX) && (name.ends_with(PARTIAL) || name.ends_with(REMOVED));
        if half || is_beside(&name) {
            // It is only litter.
            let _ = disk::remove_dir(&entry.path()).or_else(|_| disk::remove_file(&entry.path()));
        }
    }
}

fn fresh(partial: &Path) -> Result<()> {
    if partial.exists() {
        disk::remove_dir(partial).map_err(Error::io(partial))?;
    }
    disk::make_dir(partial).map_err(Error::io(partial))
}
