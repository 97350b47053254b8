//! Encoded datasets kept by what they were made of: the bytes of the files, the tokenizer, the template, the settings, and the
//! code that encodes. Whatever changes, the key is another one; nothing here can be stale, and a run goes on reading what it
//! began with though the dataset is edited.

use super::{Spool, SpoolWriter};
use crate::{
    Error, Result,
    files::{atomic, digest},
    train::checkpoint::folder_bytes,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A folder with one folder for each encoded dataset, by its key.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// What is known of a dataset besides its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Rows read.
    pub rows: u64,
    /// Rows left out since they have nothing to learn, however long a sample may be.
    pub skipped: u64,
    /// Whether rows describe tools that the template doesn't show.
    pub unseen_tools: bool,
}

/// A dataset that is being encoded. Dropped, it leaves nothing.
pub struct Making {
    pub spool: SpoolWriter,
    /// Where it will stand.
    place: PathBuf,
    beside: Beside,
}

/// Where it stands until it is whole; deleted if it never is.
struct Beside(PathBuf);

const FACTS: &str = "facts.json";
/// Encoded datasets of more bytes than this in all make room for newer ones.
const MOST: u64 = 20 << 30;

impl Cache {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself, where files without a name may stand, too.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was made under this key, whole.
    pub fn find(&self, key: &str) -> Option<(Spool, Facts)> {
        let dir = self.dir.join(key);
        let facts = serde_json::from_slice(&fs::read(dir.join(FACTS)).ok()?).ok()?;
        let found = Spool::open(&dir)?;
        // Used now: others make room first.
        if let Ok(file) = File::options().append(true).open(dir.join(FACTS)) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some((found, facts))
    }

    /// Begins to make what belongs to this key.
    pub fn make(&self, key: &str) -> Result<Making> {
        let place = self.dir.join(key);
        let beside = Beside(atomic::folder_beside(&place)?);
        let spool = SpoolWriter::lasting(&beside.0)?;
        Ok(Making { spool, place, beside })
    }

    /// Deletes what was used longest ago until the rest takes [`MOST`] bytes or less. Who reads it still reads it. What a
    /// killed process left half made counts as used when it was begun.
    fn make_room(&self) {
        let folders = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut known: Vec<(SystemTime, u64, PathBuf)> = folders
            .filter_map(|dir| {
                let used =
                    fs::metadata(dir.join(FACTS)).or_else(|_| fs::metadata(&dir)).and_then(|meta| meta.modified());
                Some((used.ok()?, folder_bytes(&dir), dir))
            })
            .collect();
        known.sort();
        let mut total: u64 = known.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, dir) in known {
            if total <= MOST {
                return;
            }
            total -= bytes;
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Making {
    /// Puts it in its place, whole; another process may have been faster.
    pub fn finish(self, cache: &Cache, facts: &Facts) -> Result<Spool> {
        let text = serde_json::to_vec(facts).map_err(|e| Error::Internal(e.to_string()))?;
        let path = self.beside.0.join(FACTS);
        fs::write(&path, text).map_err(Error::io(&path))?;
        let spool = self.spool.keep()?;
        atomic::replace_dir(&self.beside.0, &self.place)?;
        cache.make_room();
        Ok(spool)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The key of parts, each of which is told apart from its neighbours.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    // The code that encodes, as build.rs saw it.
    digest::hex(&digest::of_parts(std::iter::once(env!("ENCODING")).chain(parts)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Sequence;

    #[test]
    fn what_was_made_is_found_by_its_key_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("tokens"));
        let (one, two) = (key(["a", "bc"]), key(["ab", "c"]));
        assert_ne!(one, two);
        assert!(cache.find(&one).is_none());
        let facts = Facts { rows: 3, skipped: 1, unseen_tools: true };
        // Begun and given up: nothing stays.
        cache.make(&one).unwrap().spool.push(&Sequence::all(vec![1, 2])).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tokens")).unwrap().count(), 0);
        for key in [&one, &two, &one] {
            let mut making = cache.make(key).unwrap();
            making.spool.push(&Sequence::all(vec![1, 2])).unwrap();
            assert_eq!(making.finish(&cache, &facts).unwrap().len(), 1);
        }
        assert_eq!(fs::read_dir(dir.path().join("tokens")).unwrap().count(), 2);
        let (spool, found) = cache.find(&one).unwrap();
        assert_eq!((spool.len(), found), (1, facts));
        fs::write(dir.path().join("tokens").join(&two).join(FACTS), "{").unwrap();
        assert!(cache.find(&two).is_none());
    }
}
