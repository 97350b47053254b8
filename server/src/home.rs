//! The data folder: `lathe.db`, `lock`, `datasets/`, `models/`, `runs/ID/`, `exports/`, `uploads/`.

use crate::error::Error;
use cap_std::{ambient_authority, fs::Dir};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

#[derive(Clone, Debug)]
pub struct Home(PathBuf);

/// Held while the server lives: no second one works in the same folder.
pub struct HomeLock(File);

impl Home {
    /// Makes the folder and what belongs in it, readable by its owner only.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Home { path: path.into(), source };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(failed)?;
        let home = Self(path.canonicalize().map_err(failed)?);
        for folder in ["datasets", "models", "runs", "exports", "uploads"] {
            builder.create(home.0.join(folder)).map_err(failed)?;
        }
        Ok(home)
    }

    /// Takes the folder for this process, or says who has it.
    pub fn lock(&self) -> Result<HomeLock, Error> {
        let failed = |source| Error::Home { path: self.0.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(self.0.join("lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(HomeLock(file)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(200).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another Lathe".into() } else { holder.trim().to_owned() };
                Err(Error::HomeInUse { path: self.0.clone(), holder })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("lathe.db")
    }

    pub fn datasets(&self) -> PathBuf {
        self.0.join("datasets")
    }

    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    pub fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    /// The handles beneath which files are opened whose names came from outside: no `..` and no link leads out of them, also
    /// none that is put there in between (openat2 on Linux).
    pub fn datasets_dir(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(self.datasets(), ambient_authority())
    }

    pub fn uploads_dir(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(self.uploads(), ambient_authority())
    }

    fn runs_dir(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(self.runs(), ambient_authority())
    }

    /// A file in the folder of a run, to be read; nothing if it isn't there. A run in a folder of the person's own is a link
    /// that `lathe train` made, which is followed as it says; what stands in the folder leads nowhere else.
    pub fn run_file(&self, id: &str, name: &str) -> io::Result<Option<File>> {
        if !is_name(id) || !is_name(name) {
            return Ok(None);
        }
        let open = || -> io::Result<File> {
            let runs = self.runs_dir()?;
            let run = match runs.symlink_metadata(id)?.is_symlink() {
                true => Dir::open_ambient_dir(runs.read_link_contents(id)?, ambient_authority())?,
                false => runs.open_dir(id)?,
            };
            Ok(run.open(name)?.into_std())
        };
        match open() {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder of a run; nothing for a name that isn't one.
    pub fn run(&self, id: &str) -> Option<PathBuf> {
        is_name(id).then(|| self.runs().join(id))
    }

    /// Bytes that may still be written.
    pub fn free(&self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.0)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// Removes what an earlier server left half done.
    pub fn tidy(&self) {
        for entry in fs::read_dir(self.uploads()).into_iter().flatten().flatten() {
            let path = entry.path();
            let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let is_over = match ending {
                "part" => true,
                // Unless it was written to in the last day, and with what was told of it.
                "upload" => !is_recent(&path) || !path.with_extension("json").exists(),
                "json" => !is_recent(&path.with_extension("upload")),
                _ => false,
            };
            if is_over {
                let _ = fs::remove_file(path);
            }
        }
        for entry in fs::read_dir(self.runs()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TRASH) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Takes the folder of a run out of sight at once; gives the name in the trash under which it is then deleted
    /// ([`empty`](Self::empty)). Of one that stands elsewhere, only the link to it goes.
    pub fn trash_run(&self, id: &str) -> io::Result<Option<String>> {
        if !is_name(id) {
            return Ok(None);
        }
        let runs = self.runs_dir()?;
        match runs.symlink_metadata(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(meta) if meta.is_dir() => {
                let name = |number: u32| format!("{TRASH}{id}-{number}");
                let trash = (1..).map(name).find(|trash| runs.symlink_metadata(trash).is_err());
                let trash = trash.ok_or(io::ErrorKind::AlreadyExists)?;
                runs.rename(id, &runs, &trash)?;
                Ok(Some(trash))
            }
            Ok(_) => runs.remove_file(id).map(|()| None),
        }
    }

    /// Deletes what is in the trash under a name, file by file.
    pub fn empty(&self, trash: &str) -> io::Result<()> {
        self.runs_dir()?.remove_dir_all(trash)
    }
}

impl HomeLock {
    /// Says who holds the folder, for the second server that is refused.
    pub fn describe(&mut self, what: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{what}")
    }
}

/// Whether a file was written to within a day: so long an upload that was cut off can go on.
fn is_recent(path: &Path) -> bool {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let written = fs::metadata(path).and_then(|meta| meta.modified());
    // A time to come is one of another clock.
    written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < DAY) || time > SystemTime::now())
}

const TRASH: &str = ".trash-";

/// Names of runs and files: `^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Writes a file, its owner's alone, so that it is either whole or as before.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_paths() {
        for good in ["a", "checkpoint-25", "A.b_c-9", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../a", "a/b", "a\\b", "-a", ".a", "a b", "é", "a\0", "a\n", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn deleting_a_linked_run_keeps_the_folder_elsewhere() {
        let (outer, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = Home::open(&outer.path().join("home")).unwrap();
        fs::write(elsewhere.path().join("model.safetensors"), "x").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.runs().join("linked")).unwrap();
        fs::create_dir(home.runs().join("own")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), home.runs().join("own/inner")).unwrap();
        for id in ["linked", "own", "never", "..", "../datasets"] {
            let trash = home.trash_run(id).unwrap();
            trash.map(|trash| home.empty(&trash)).transpose().unwrap();
        }
        assert!(elsewhere.path().join("model.safetensors").exists());
        assert_eq!(fs::read_dir(home.runs()).unwrap().count(), 0);
        assert!(home.datasets().exists());
    }

    #[test]
    fn a_second_server_is_told_who_holds_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let home = Home::open(outer.path()).unwrap();
        let mut lock = home.lock().unwrap();
        lock.describe("pid 7 at http://127.0.0.1:7860").unwrap();
        let Err(Error::HomeInUse { holder, .. }) = home.lock() else { panic!() };
        assert_eq!(holder, "pid 7 at http://127.0.0.1:7860");
        drop(lock);
        assert!(home.lock().is_ok());
    }
}
