//! Whether weights are still those that a run began with, told without reading all of them.

use super::{digest::hex, source::Source};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Parts of a file that are read, spread evenly over it, and their bytes. The first has the header with names and shapes.
const PARTS: u64 = 64;
const PART: u64 = 16 << 10;

/// A hash of a model file, or of the weights and the configuration in a folder: names, lengths, and a sample of the bytes.
/// What was trained further, merged or quantised has another; a folder that was moved has not.
pub fn fingerprint(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for file in files(path)? {
        let source = Source::open(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update(source.len().to_le_bytes());
        let (step, last) = (source.len() / PARTS, source.len().saturating_sub(PART));
        for part in 0..=PARTS {
            let from = (part * step).min(last);
            hash.update(source.read(from, PART.min(source.len() - from))?);
            if source.len() <= PART {
                break;
            }
        }
    }
    Ok(hex(&hash.finalize()))
}

/// What holds weights or says what they are, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        let path = entry.map_err(Error::io(path))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let named = ["config.json", "adapter_config.json", "tokenizer.json"].contains(&name.as_str());
        if (named || name.ends_with(".safetensors") || name.ends_with(".gguf")) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn other_weights_have_another_and_a_moved_folder_has_not() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |dir: &Path, byte: u8| {
            fs::write(dir.join("config.json"), "{}").unwrap();
            fs::write(dir.join("model.safetensors"), vec![byte; 3 << 20]).unwrap();
            fs::write(dir.join("notes.txt"), [byte]).unwrap();
        };
        write(one.path(), 1);
        write(two.path(), 1);
        fs::write(two.path().join("notes.txt"), "others").unwrap();
        let before = fingerprint(one.path()).unwrap();
        assert_eq!(before, fingerprint(two.path()).unwrap());
        write(two.path(), 2);
        assert_ne!(before, fingerprint(two.path()).unwrap());
        assert_ne!(before, fingerprint(&one.path().join("config.json")).unwrap());
    }
}
