//! Changes of the disk that must never be seen half done: checkpoints, results, exports. Each is one operation, and goes
//! through here, so that a test can write down the operations of a save, refuse any of them, or end the world at it.

use std::{
    cell::RefCell,
    fs, io,
    path::{Path, PathBuf},
};

/// An operation that is about to be made.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    MakeDir(&'a Path),
    /// An empty file; one that stood there loses its content.
    Create(&'a Path),
    Write(&'a Path, &'a [u8]),
    /// What was written to a file lasts through a power cut.
    Sync(&'a Path),
    /// So do the names in a folder.
    SyncDir(&'a Path),
    Rename(&'a Path, &'a Path),
    RemoveFile(&'a Path),
    /// With all that is in it.
    RemoveDir(&'a Path),
    /// No change: how many bytes are free is asked for.
    Free(&'a Path),
}

/// What an observer lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// A write takes so many bytes at most; so many are said to be free.
    AtMost(u64),
}

type Observer = dyn FnMut(&Op) -> io::Result<Verdict>;

thread_local! {
    static OBSERVER: RefCell<Option<Box<Observer>>> = const { RefCell::new(None) };
}

/// Does `work` while `observer` hears of each operation of this thread before it is made. An error of it stands for the
/// operation's own, which is then not made.
pub fn observed<T>(observer: impl FnMut(&Op) -> io::Result<Verdict> + 'static, work: impl FnOnce() -> T) -> T {
    struct Before(Option<Box<Observer>>);
    impl Drop for Before {
        fn drop(&mut self) {
            OBSERVER.with(|cell| *cell.borrow_mut() = self.0.take());
        }
    }
    let _before = Before(OBSERVER.with(|cell| cell.borrow_mut().replace(Box::new(observer))));
    work()
}

fn told(op: &Op) -> io::Result<Verdict> {
    OBSERVER.with(|cell| cell.borrow_mut().as_mut().map_or(Ok(Verdict::Go), |observer| observer(op)))
}

/// A new file that is being written.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    path: PathBuf,
}

impl File {
    pub fn create(path: &Path) -> io::Result<Self> {
        told(&Op::Create(path))?;
        Ok(Self { file: fs::File::create(path)?, path: path.into() })
    }

    pub fn sync(&self) -> io::Result<()> {
        told(&Op::Sync(&self.path))?;
        self.file.sync_all()
    }
}

impl io::Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = match told(&Op::Write(&self.path, bytes))? {
            Verdict::Go => bytes.len(),
            Verdict::AtMost(n) => bytes.len().min(usize::try_from(n).unwrap_or(usize::MAX)),
        };
        self.file.write(&bytes[..most])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

pub fn make_dir(path: &Path) -> io::Result<()> {
    told(&Op::MakeDir(path))?;
    fs::create_dir(path)
}

pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    told(&Op::Rename(from, to))?;
    fs::rename(from, to)
}

pub fn remove_file(path: &Path) -> io::Result<()> {
    told(&Op::RemoveFile(path))?;
    fs::remove_file(path)
}

pub fn remove_dir(path: &Path) -> io::Result<()> {
    told(&Op::RemoveDir(path))?;
    fs::remove_dir_all(path)
}

/// Flushes a file that stands already.
pub fn sync_file(path: &Path) -> io::Result<()> {
    told(&Op::Sync(path))?;
    fs::File::open(path)?.sync_all()
}

/// Makes what was created and renamed in a folder last through a power cut.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    told(&Op::SyncDir(path))?;
    #[cfg(unix)]
    fs::File::open(path)?.sync_all()?;
    Ok(())
}

/// Bytes that may still be written to the disk of a folder; nothing where the system doesn't say.
pub fn free(dir: &Path) -> Option<u64> {
    if let Ok(Verdict::AtMost(bytes)) = told(&Op::Free(dir)) {
        return Some(bytes);
    }
    let disk = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(disk.blocks_available() * disk.fragment_size())
}
