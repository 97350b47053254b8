//! Files and folders that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

use super::disk::{self, File};
use crate::{Error, Result};
use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Writes `bytes` as the file `path`; a reader sees the old content or the new one, never a part.
pub fn write_atomically(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    create_atomically(path, |out| out.write_all(bytes.as_ref()).map_err(Error::io(path)))
}

/// As [`write_atomically`], for what is too large to hold in memory: `write` is given the file.
pub(super) fn create_atomically(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let beside = beside(path);
    let written = File::create(&beside).map_err(Error::io(path)).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|error| Error::io(path)(error.into_error()))?;
        let placed = file.sync().and_then(|()| disk::rename(&beside, path));
        placed.and_then(|()| disk::sync_dir(parent(path))).map_err(Error::io(path))
    });
    if written.is_err() {
        // The first error is the one to tell; a leftover is only litter.
        let _ = disk::remove_file(&beside);
    }
    written
}

/// Puts the complete folder `from` in the place of `to` (which may exist). Both stand in the same parent folder.
///
/// Every file of `from` is flushed first. An old `to` is renamed away before and deleted after, so that a crash
/// between the two leaves the old folder under a name that begins with a dot, and nothing half-written under `to`.
pub fn replace_dir(from: &Path, to: &Path) -> Result<()> {
    sync_tree(from).map_err(Error::io(from))?;
    let old = beside(to);
    let had_old = match disk::rename(to, &old) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(to)(error)),
    };
    if let Err(error) = disk::rename(from, to) {
        if had_old {
            // Back to how it was; the error below tells what happened.
            let _ = disk::rename(&old, to);
        }
        return Err(Error::io(to)(error));
    }
    disk::sync_dir(parent(to)).map_err(Error::io(to))?;
    if had_old {
        // A file where a folder shall stand is replaced as well.
        let _ = disk::remove_dir(&old).or_else(|_| disk::remove_file(&old));
    }
    Ok(())
}

/// A new, empty folder beside `path`, for [`replace_dir`]; its name begins with a dot and ends in `.tmp`.
pub fn folder_beside(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(parent(path)).map_err(Error::io(parent(path)))?;
    let folder = beside(path);
    disk::make_dir(&folder).map_err(Error::io(&folder))?;
    Ok(folder)
}

/// Removes what killed processes left beside `path`. To be called by who alone writes there.
pub fn clear_beside(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in fs::read_dir(parent(path)).into_iter().flatten().flatten() {
        let left = entry.file_name();
        let process = left.to_str().and_then(|left| maker(left, &name));
        if process.is_some_and(|id| !is_alive(id)) {
            // It is only litter.
            let _ = disk::remove_dir(&entry.path()).or_else(|_| disk::remove_file(&entry.path()));
        }
    }
}

/// Whether a file or folder of this name stood beside its place until it was whole.
pub fn is_beside(left: &str) -> bool {
    parts(left).is_some()
}

/// The process that made a name of [`beside`], if it is one of `name`.
fn maker(left: &str, name: &str) -> Option<u32> {
    parts(left).filter(|(of, _)| *of == name).map(|(_, process)| process)
}

/// What a name of [`beside`] is for, and the process that made it.
fn parts(left: &str) -> Option<(&str, u32)> {
    let mut parts = left.strip_prefix('.')?.strip_suffix(".tmp")?.rsplitn(3, '.');
    let count = parts.next()?.parse::<u64>();
    let process = parts.next()?.parse().ok()?;
    Some((parts.next().filter(|_| count.is_ok())?, process))
}

fn is_alive(process: u32) -> bool {
    let process = i32::try_from(process).map(nix::unistd::Pid::from_raw);
    // A signal of number 0 is none: it only asks.
    process.is_ok_and(|process| !matches!(nix::sys::signal::kill(process, None), Err(nix::errno::Errno::ESRCH)))
}

/// A name in the same folder that nothing has. A killed process with our number may have left some of these names.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let free = parent(path).join(format!(".{name}.{}.{count}.tmp", std::process::id()));
        if free.symlink_metadata().is_err() {
            return free;
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync_tree(&entry.path())?,
            kind if kind.is_file() => disk::sync_file(&entry.path())?,
            _ => {}
        }
    }
    disk::sync_dir(folder)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomically(&path, "old").unwrap();
        write_atomically(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_atomically(&dir.path().join("no/such/folder"), "x").is_err());
        // A folder stands in the way: refused, and the folder is as it was.
        fs::create_dir(dir.path().join("b")).unwrap();
        assert!(write_atomically(&dir.path().join("b"), "x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_folder_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("model");
        for round in ["one", "two"] {
            let from = folder_beside(&to).unwrap();
            fs::write(from.join(round), "x").unwrap();
            replace_dir(&from, &to).unwrap();
            assert!(to.join(round).exists());
        }
        assert!(!to.join("one").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace_dir(&dir.path().join("missing"), &to).is_err());
        assert!(to.join("two").exists());
        assert!(is_beside(".a.b.7.0.tmp") && maker(".a.b.7.0.tmp", "a.b") == Some(7));
        for name in [".notes.tmp", ".a.7.tmp", "a.7.0.tmp", ".a.x.0.tmp", ".a.7.0.part"] {
            assert!(!is_beside(name), "{name}");
        }
        // What a killed process with our number left is in nobody's way.
        for count in 0..1000 {
            fs::create_dir(dir.path().join(format!(".model.{}.{count}.tmp", std::process::id()))).unwrap();
        }
        replace_dir(&folder_beside(&to).unwrap(), &to).unwrap();
        assert!(!to.join("two").exists());
    }
}
