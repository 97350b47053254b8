//! A file that is read in parts, at given places. Plain reads, no memory map: a file that is cut while it is in use
//! becomes an error here, where a map would kill the process (SIGBUS).

use crate::{Error, Result, pulse};
use api::Problem;
use std::{
    fs::File,
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let metadata = file.metadata().map_err(Error::io(path))?;
        if !metadata.is_file() {
            return Err(Problem::new(
                "not_a_file",
                format!("{} is not a file.", path.display()),
                format!("{} 不是文件。", path.display()),
            )
            .hint("Check the path.", "请检查路径。")
            .into());
        }
        Ok(Self { path: path.to_path_buf(), file, len: metadata.len() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when the file was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// `size` bytes from `offset`. Refuses before it allocates if they are not within the file.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        let end = offset.checked_add(size).filter(|end| *end <= self.len);
        let (Some(_), Ok(size)) = (end, usize::try_from(size)) else {
            return Err(truncated(&self.path, offset.saturating_add(size), self.len).into());
        };
        let mut bytes = vec![0; size];
        read_exact_at(&self.file, &mut bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let now = self.file.metadata().map_or(0, |m| m.len());
                truncated(&self.path, offset.saturating_add(size as u64), now).into()
            }
            _ => Error::io(&self.path)(error),
        })?;
        pulse::beat();
        Ok(bytes)
    }
}

/// The file ends before what it promises.
pub fn truncated(path: &Path, expected: u64, actual: u64) -> Problem {
    Problem::new(
        "file_truncated",
        format!("{} is cut short: {expected} bytes are needed, it has {actual}.", path.display()),
        format!("{} 不完整：需要 {expected} 字节，实际只有 {actual} 字节。", path.display()),
    )
    .hint("Download or copy it again.", "请重新下载或复制。")
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::io::ErrorKind;
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
