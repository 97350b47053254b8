//! The Hugging Face cache folder: `models--OWNER--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/PATH}`, so that
//! every other program finds what Lathe downloaded and the other way round.

use super::{Kind, problems};
use api::Problem;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of one repository.
#[derive(Clone, Debug)]
pub struct RepoFolder {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    /// `repo` is checked: `owner/name` or `name`.
    pub fn new(cache_dir: &Path, kind: Kind, repo: &str) -> Self {
        let name = format!("{}--{}", kind.word(), repo.replace('/', "--"));
        Self { folder: cache_dir.join(&name), locks: cache_dir.join(".locks").join(name) }
    }

    pub fn create(&self) -> Result<(), Problem> {
        for folder in [&self.folder.join("blobs"), &self.folder.join("refs"), &self.locks] {
            fs::create_dir_all(folder).map_err(|e| problems::io(folder, &e))?;
        }
        Ok(())
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// What has arrived of a blob so far.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The snapshot that a revision stands for here, if there is one.
    pub fn known(&self, revision: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(self.snapshot(commit.trim())).filter(|_| is_hex(commit.trim())).filter(|path| path.is_dir())
    }

    /// Waits until no other process downloads this blob. The lock goes when the file is dropped.
    pub async fn lock(&self, etag: &str) -> Result<File, Problem> {
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::options().create(true).append(true).open(&path).map_err(|e| problems::io(&path, &e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(TryLockError::Error(e)) => return Err(problems::io(&path, &e)),
            }
        }
    }

    /// `snapshots/COMMIT/NAME -> ../../blobs/ETAG`; `name` is checked. Replaces what stands there in one step.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), Problem> {
        let path = self.snapshot(commit).join(name);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(|e| problems::io(folder, &e))?;
        let up = "../".repeat(name.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        let fresh = folder.join(format!(".{}.{etag}.link", std::process::id()));
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(&target, &fresh)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|e| problems::io(&path, &e))
    }

    /// `refs/REVISION` holds the commit; nothing is written where the revision is the commit itself.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<(), Problem> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        let fresh = folder.join(format!(".{}.ref", std::process::id()));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&fresh, commit))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|e| problems::io(&path, &e))
    }
}

/// Checks a downloaded file against what its etag promises: 64 hexadecimal digits are the sha256 of the content
/// (large files), 40 are git's object id (small files), anything else promises nothing. The size counts always.
/// Gives what is wrong, if anything.
pub fn check(path: &Path, etag: &str, size: Option<u64>) -> io::Result<Option<String>> {
    let length = fs::metadata(path)?.len();
    if let Some(size) = size.filter(|&size| size != length) {
        return Ok(Some(format!("{length} bytes instead of {size}")));
    }
    let (kind, found) = match etag.len() {
        64 if is_hex(etag) => ("sha256", hash(path, Sha256::new())?),
        40 if is_hex(etag) => ("sha1", hash(path, Sha1::new().chain_update(format!("blob {length}\0")))?),
        _ => return Ok(None),
    };
    if found.eq_ignore_ascii_case(etag) {
        return Ok(None);
    }
    Ok(Some(format!("{kind} is {}…, must be {}…", &found[..12], &etag[..12])))
}

pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Bytes that this user may still write below `folder`.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn hash(path: &Path, mut hasher: impl Digest) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn content_is_checked_against_the_etag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same bytes.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(check(&path, git, Some(6)).unwrap(), None);
        assert_eq!(check(&path, sha, None).unwrap(), None);
        assert_eq!(check(&path, "some-etag", None).unwrap(), None);
        assert!(check(&path, "some-etag", Some(7)).unwrap().unwrap().contains("6 bytes instead of 7"));
        assert!(check(&path, &sha.replace('5', "6"), None).unwrap().unwrap().contains("sha256"));
    }

    #[test]
    fn links_lead_to_the_blob_from_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let repo = RepoFolder::new(dir.path(), Kind::Model, "a/b");
        repo.create().unwrap();
        fs::write(repo.blob("e1"), "one").unwrap();
        fs::write(repo.blob("e2"), "two").unwrap();
        for name in ["config.json", "deep/er/x.gguf"] {
            repo.link("c0ffee", name, "e1").unwrap();
            repo.link("c0ffee", name, "e2").unwrap();
            assert_eq!(fs::read_to_string(repo.snapshot("c0ffee").join(name)).unwrap(), "two");
        }
        repo.set_ref("refs/pr/1", "c0ffee").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("models--a--b/refs/refs/pr/1")).unwrap(), "c0ffee");
    }
}
