//! Encoded rows on the disk: a run's memory doesn't grow with its dataset. Four bytes a token in a file, sixteen bytes a row
//! in memory say where each stands. A spool lasts as a folder of the [cache](super::cache), or goes with its process.

use super::Sequence;
use crate::{Error, Result, pulse};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Takes rows, one after the other.
pub struct SpoolWriter {
    out: BufWriter<File>,
    dir: PathBuf,
    ends: Vec<u64>,
    targets: Vec<u32>,
    marks: Vec<f32>,
}

/// Rows that were written.
pub struct Spool {
    /// None where rows were only counted: they have lengths and can't be read.
    file: Option<File>,
    /// Where the file was made, for error messages.
    dir: PathBuf,
    /// Where each row ends, in tokens.
    ends: Vec<u64>,
    /// Tokens with a loss of each row.
    targets: Arc<[u32]>,
    /// The mark of each row.
    marks: Arc<[f32]>,
}

/// Tells the files of one process apart in the moment that they have a name.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A token's loss mask is its highest bit in the file; ids have 31 bits.
const TRAINED: u32 = 1 << 31;

/// Names in the folder of a spool that lasts.
const TOKENS: &str = "tokens";
const ROWS: &str = "rows";
/// Bytes of a row in the file of that name: its end (u64), its targets (u32) and its mark (f32).
const ROW: usize = 16;

impl SpoolWriter {
    /// Writes into a file of the folder `dir`, which is deleted at once and lives on while it is open: nothing is left
    /// behind, however the process ends.
    pub fn nameless(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".rows.{}.{count}.tmp", std::process::id()));
        // What a killed process with our number left is in nobody's way.
        let _ = fs::remove_file(&path);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        fs::remove_file(&path).map_err(Error::io(&path))?;
        Ok(Self::writing(file, dir))
    }

    /// Writes into the empty folder `dir`, where [`Spool::open`] finds it once it is [kept](Self::keep).
    pub fn lasting(dir: &Path) -> Result<Self> {
        let path = dir.join(TOKENS);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        Ok(Self::writing(file, dir))
    }

    fn writing(file: File, dir: &Path) -> Self {
        let out = BufWriter::with_capacity(1 << 20, file);
        Self { out, dir: dir.into(), ends: Vec::new(), targets: Vec::new(), marks: Vec::new() }
    }

    /// Rows written so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A row without a mark.
    pub fn push(&mut self, sequence: &Sequence) -> Result<()> {
        self.push_marked(sequence, 0.0)
    }

    /// A row with a number that its stage reads.
    pub fn push_marked(&mut self, sequence: &Sequence, mark: f32) -> Result<()> {
        if let Some(id) = sequence.ids.iter().find(|id| **id >= TRAINED) {
            return Err(Error::Internal(format!("token id {id} has more than 31 bits")));
        }
        if self.len() >= u32::MAX as usize {
            return Err(Error::Internal("more rows than 32 bits can count".into()));
        }
        for word in words(sequence) {
            self.out.write_all(&word.to_le_bytes()).map_err(Error::io(&self.dir))?;
        }
        self.ends.push(self.ends.last().copied().unwrap_or(0) + sequence.len() as u64);
        self.targets.push(sequence.targets() as u32);
        self.marks.push(mark);
        pulse::beat();
        Ok(())
    }

    /// The written rows.
    pub fn finish(self) -> Result<Spool> {
        let Self { out, dir, mut ends, targets, marks } = self;
        let file = out.into_inner().map_err(|e| Error::io(&dir)(e.into_error()))?;
        ends.shrink_to_fit();
        Ok(Spool { file: Some(file), dir, ends, targets: targets.into(), marks: marks.into() })
    }

    /// As [`finish`](Self::finish), with what [`Spool::open`] needs beside the tokens.
    pub fn keep(self) -> Result<Spool> {
        let spool = self.finish()?;
        let path = spool.dir.join(ROWS);
        let rows = spool.ends.iter().zip(spool.targets.iter()).zip(spool.marks.iter());
        let bytes = rows.flat_map(|((end, targets), mark)| {
            end.to_le_bytes().into_iter().chain(targets.to_le_bytes()).chain(mark.to_le_bytes())
        });
        let bytes: Vec<u8> = bytes.collect();
        fs::write(&path, bytes).map_err(Error::io(&path))?;
        Ok(spool)
    }
}

/// The tokens of a row as a spool holds them: the id, and whether it is trained in the highest bit.
pub fn words(sequence: &Sequence) -> impl Iterator<Item = u32> {
    let bit = |trained: bool| if trained { TRAINED } else { 0 };
    sequence.ids.iter().zip(&sequence.trained).map(move |(id, trained)| id | bit(*trained))
}

impl Spool {
    /// Opens what was [kept](SpoolWriter::keep) in `dir`; `None` if it isn't whole.
    pub fn open(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(ROWS)).ok()?;
        let (rows, rest) = bytes.as_chunks::<ROW>();
        let row = |b: &[u8; ROW]| {
            let [e0, e1, e2, e3, e4, e5, e6, e7, t0, t1, t2, t3, m0, m1, m2, m3] = *b;
            let (targets, mark) = (u32::from_le_bytes([t0, t1, t2, t3]), f32::from_le_bytes([m0, m1, m2, m3]));
            (u64::from_le_bytes([e0, e1, e2, e3, e4, e5, e6, e7]), (targets, mark))
        };
        let (ends, rest_of): (Vec<u64>, Vec<(u32, f32)>) = rows.iter().map(row).unzip();
        let (targets, marks): (Vec<u32>, Vec<f32>) = rest_of.into_iter().unzip();
        let file = File::open(dir.join(TOKENS)).ok()?;
        let size = ends.last().copied().unwrap_or(0).checked_mul(size_of::<u32>() as u64)?;
        let whole = rest.is_empty() && ends.is_sorted() && file.metadata().is_ok_and(|meta| meta.len() == size);
        whole.then(|| Self { file: Some(file), dir: dir.into(), ends, targets: targets.into(), marks: marks.into() })
    }

    /// As many rows as asked for, with the lengths of these again and again: an estimate that can't be read.
    pub fn stretched(&self, rows: usize) -> Self {
        let mut end = 0;
        let some = (0..rows).map(|i| i % self.len().max(1)).take(if self.is_empty() { 0 } else { rows });
        let (ends, targets) = some
            .map(|i| {
                end += self.length(i) as u64;
                (end, self.targets[i])
            })
            .unzip::<u64, u32, Vec<u64>, Vec<u32>>();
        let marks = vec![0.0; ends.len()];
        Self { file: None, dir: self.dir.clone(), ends, targets: targets.into(), marks: marks.into() }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Place of a row's first token.
    pub fn start(&self, row: usize) -> u64 {
        if row == 0 { 0 } else { self.ends[row - 1] }
    }

    /// Tokens of a row.
    pub fn length(&self, row: usize) -> usize {
        (self.ends[row] - self.start(row)) as usize
    }

    /// Tokens with a loss of each row.
    pub fn targets(&self) -> &Arc<[u32]> {
        &self.targets
    }

    /// What [`SpoolWriter::push_marked`] said of a row.
    pub fn mark(&self, row: usize) -> f32 {
        self.marks[row]
    }

    /// Tokens with a loss among the first `most` of a row; 0 where rows were only counted.
    pub fn targets_within(&self, row: usize, most: usize) -> Result<usize> {
        if self.file.is_none() {
            return Ok((self.targets[row] as usize).min(most));
        }
        let (_, trained) = self.read(self.start(row), self.length(row).min(most), &mut Vec::new())?;
        Ok(trained.iter().filter(|trained| **trained).count())
    }

    /// Reads `tokens` tokens from the place `start` on: ids and what is trained. `bytes` is room that is used again.
    pub fn read(&self, start: u64, tokens: usize, bytes: &mut Vec<u8>) -> Result<(Vec<u32>, Vec<bool>)> {
        let file = self.file.as_ref().ok_or_else(|| Error::Internal("the rows were only counted".into()))?;
        bytes.resize(tokens * size_of::<u32>(), 0);
        file.read_exact_at(bytes, start * size_of::<u32>() as u64).map_err(Error::io(&self.dir))?;
        let (words, _) = bytes.as_chunks::<{ size_of::<u32>() }>();
        let words = words.iter().map(|b| u32::from_le_bytes(*b));
        Ok(words.map(|word| (word & !TRAINED, word & TRAINED != 0)).unzip())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(i: u32) -> Sequence {
        let ids: Vec<u32> = (0..i % 7 + 1).map(|k| i * 10 + k).collect();
        let trained = ids.iter().map(|id| id % 10 > 1).collect();
        Sequence { ids, trained }
    }

    fn check(spool: &Spool) {
        for i in [999, 0, 13, 500, 501] {
            let (row, at) = (row(i), i as usize);
            let read = spool.read(spool.start(at), spool.length(at), &mut Vec::new()).unwrap();
            assert_eq!((read.0, read.1), (row.ids.clone(), row.trained.clone()));
            assert_eq!(spool.targets()[at] as usize, row.targets());
            assert_eq!(spool.mark(at), i as f32 / 2.0);
            assert_eq!(spool.targets_within(at, 3).unwrap(), row.trained.iter().take(3).filter(|t| **t).count());
        }
    }

    #[test]
    fn what_was_written_is_read_in_any_order_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        (0..1000).for_each(|i| writer.push_marked(&row(i), i as f32 / 2.0).unwrap());
        assert_eq!((writer.len(), fs::read_dir(dir.path()).unwrap().count()), (1000, 0));
        let spool = writer.finish().unwrap();
        check(&spool);
        let wide = Sequence::all(vec![0, TRAINED]);
        assert!(SpoolWriter::nameless(dir.path()).unwrap().push(&wide).is_err());
    }

    #[test]
    fn what_is_kept_is_found_again_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::lasting(dir.path()).unwrap();
        (0..1000).for_each(|i| writer.push_marked(&row(i), i as f32 / 2.0).unwrap());
        assert!(Spool::open(dir.path()).is_none());
        let kept = writer.keep().unwrap();
        let found = Spool::open(dir.path()).unwrap();
        assert_eq!((found.len(), found.tokens()), (kept.len(), kept.tokens()));
        [kept, found].iter().for_each(check);
        for name in [TOKENS, ROWS] {
            let path = dir.path().join(name);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            assert!(Spool::open(dir.path()).is_none(), "{name}");
            fs::write(&path, bytes).unwrap();
        }
    }

    #[test]
    fn a_stretched_spool_has_lengths_and_no_ids() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        [5, 6].iter().for_each(|i| writer.push(&row(*i)).unwrap());
        let spool = writer.finish().unwrap().stretched(5);
        assert_eq!((spool.len(), spool.tokens()), (5, 6 + 7 + 6 + 7 + 6));
        assert_eq!((spool.length(3), spool.targets()[3], spool.targets_within(3, 2).unwrap()), (7, 5, 2));
        assert!(spool.read(0, 1, &mut Vec::new()).is_err());
        assert_eq!(SpoolWriter::nameless(dir.path()).unwrap().finish().unwrap().stretched(5).len(), 0);
    }
}
