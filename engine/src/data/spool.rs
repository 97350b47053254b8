//! Encoded samples on the disk: a run's memory doesn't grow with its dataset. Four bytes a token in a file that has no
//! name and goes with the process; twelve bytes a sample in memory say where each stands.

use super::Sequence;
use crate::{Error, Result, model::Batch};
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

/// Takes samples, one after the other.
pub struct SpoolWriter {
    out: Option<BufWriter<File>>,
    spool: Spool,
}

/// Samples that were written.
pub struct Spool {
    file: Option<File>,
    /// Where the file was made, for error messages.
    path: PathBuf,
    /// Where each sample ends, in tokens.
    ends: Vec<u64>,
    /// Tokens with a loss of each sample.
    targets: Vec<u32>,
}

/// Some of the samples of a spool, in an order: a training set, a validation set.
#[derive(Clone)]
pub struct Samples {
    spool: Arc<Spool>,
    indices: Arc<[u32]>,
}

/// Tells the files of one process apart in the moment that they have a name.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A token's loss mask is its highest bit in the file; ids have 31 bits.
const TRAINED: u32 = 1 << 31;

impl SpoolWriter {
    /// Writes into a file of the folder `dir`, which is deleted at once and lives on while it is open: nothing is left
    /// behind, however the process ends.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".samples.{}.{count}.tmp", std::process::id()));
        // What a killed process with our number left is in nobody's way.
        let _ = fs::remove_file(&path);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        fs::remove_file(&path).map_err(Error::io(&path))?;
        let out = file.try_clone().map_err(Error::io(&path))?;
        let spool = Spool { file: Some(file), path: dir.into(), ends: Vec::new(), targets: Vec::new() };
        Ok(Self { out: Some(BufWriter::with_capacity(1 << 20, out)), spool })
    }

    /// Only counts, for a plan: its samples have lengths and can't be read.
    pub fn counting() -> Self {
        let spool = Spool { file: None, path: PathBuf::new(), ends: Vec::new(), targets: Vec::new() };
        Self { out: None, spool }
    }

    /// Samples written so far.
    pub fn len(&self) -> usize {
        self.spool.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, sequence: &Sequence) -> Result<()> {
        if let Some(out) = &mut self.out {
            for (id, trained) in sequence.ids.iter().zip(&sequence.trained) {
                if *id >= TRAINED {
                    return Err(Error::Internal(format!("token id {id} has more than 31 bits")));
                }
                let word = id | if *trained { TRAINED } else { 0 };
                out.write_all(&word.to_le_bytes()).map_err(Error::io(&self.spool.path))?;
            }
        }
        if self.len() >= u32::MAX as usize {
            return Err(Error::Internal("more samples than 32 bits can count".into()));
        }
        self.spool.ends.push(self.spool.start(self.len()) + sequence.len() as u64);
        self.spool.targets.push(sequence.targets() as u32);
        Ok(())
    }

    /// The written samples.
    pub fn finish(mut self) -> Result<Spool> {
        if let Some(mut out) = self.out.take() {
            out.flush().map_err(Error::io(&self.spool.path))?;
        }
        self.spool.ends.shrink_to_fit();
        self.spool.targets.shrink_to_fit();
        Ok(self.spool)
    }
}

impl Spool {
    fn start(&self, index: usize) -> u64 {
        if index == 0 { 0 } else { self.ends[index - 1] }
    }

    fn length(&self, index: usize) -> usize {
        (self.ends[index] - self.start(index)) as usize
    }

    /// Reads one sample: ids and what is trained. `bytes` is room that is used again.
    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(Vec<u32>, Vec<bool>)> {
        let file = self.file.as_ref().ok_or_else(|| Error::Internal("the samples were only counted".into()))?;
        bytes.resize(self.length(index) * size_of::<u32>(), 0);
        let place = self.start(index) * size_of::<u32>() as u64;
        file.read_exact_at(bytes, place).map_err(Error::io(&self.path))?;
        let words = bytes.chunks_exact(size_of::<u32>()).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(words.map(|word| (word & !TRAINED, word & TRAINED != 0)).unzip())
    }

    /// Bytes of memory that the index of the samples takes.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.ends.capacity() * size_of::<u64>() + self.targets.capacity() * size_of::<u32>()
    }
}

impl Samples {
    /// The samples of `spool` with these indices.
    pub fn new(spool: Arc<Spool>, indices: Vec<u32>) -> Self {
        Self { spool, indices: indices.into() }
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Tokens of sample `i` of these.
    pub fn length(&self, i: usize) -> usize {
        self.spool.length(self.indices[i] as usize)
    }

    /// Tokens of sample `i` that have a loss.
    pub fn targets(&self, i: usize) -> usize {
        self.spool.targets[self.indices[i] as usize] as usize
    }

    /// Reads the samples `of` as one batch.
    pub fn batch(&self, of: &[u32]) -> Result<Batch> {
        let mut bytes = Vec::new();
        let read = |i: &u32| self.spool.read(self.indices[*i as usize] as usize, &mut bytes);
        let read: Vec<(Vec<u32>, Vec<bool>)> = of.iter().map(read).collect::<Result<_>>()?;
        Ok(Batch::new(read.iter().map(|(ids, trained)| (ids.as_slice(), trained.as_slice()))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(i: u32) -> Sequence {
        let ids: Vec<u32> = (0..i % 7 + 1).map(|k| i * 10 + k).collect();
        let trained = ids.iter().map(|id| id % 10 > 1).collect();
        Sequence { ids, trained, truncated: 0 }
    }

    #[test]
    fn what_was_written_is_read_in_any_order_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::create(dir.path()).unwrap();
        (0..1000).for_each(|i| writer.push(&sample(i)).unwrap());
        assert_eq!((writer.len(), fs::read_dir(dir.path()).unwrap().count()), (1000, 0));
        let spool = Arc::new(writer.finish().unwrap());
        let samples = Samples::new(spool, vec![999, 0, 13, 500, 501]);
        let order = [4, 0, 2, 1, 3];
        let wanted: Vec<Sequence> = [501, 999, 13, 0, 500].map(sample).to_vec();
        let wanted_batch = Batch::new(wanted.iter().map(|s| (s.ids.as_slice(), s.trained.as_slice())));
        assert_eq!(samples.batch(&order).unwrap(), wanted_batch);
        for (i, sequence) in order.iter().zip(&wanted) {
            let i = *i as usize;
            assert_eq!((samples.length(i), samples.targets(i)), (sequence.len(), sequence.targets()));
        }
    }

    #[test]
    fn memory_is_counted_by_samples_and_not_by_tokens() {
        let dir = tempfile::tempdir().unwrap();
        for tokens in [1, 4000] {
            let mut writer = SpoolWriter::create(dir.path()).unwrap();
            let sequence = Sequence::all((0..tokens).collect());
            (0..500).for_each(|_| writer.push(&sequence).unwrap());
            let spool = writer.finish().unwrap();
            assert!(spool.memory() <= 500 * 16, "{} bytes for 500 samples", spool.memory());
            let bytes = spool.file.as_ref().unwrap().metadata().unwrap().len();
            assert_eq!(bytes, u64::from(500 * tokens) * 4);
        }
    }

    #[test]
    fn what_was_only_counted_has_lengths_and_no_ids() {
        let mut writer = SpoolWriter::counting();
        writer.push(&sample(6)).unwrap();
        let samples = Samples::new(Arc::new(writer.finish().unwrap()), vec![0]);
        assert_eq!((samples.length(0), samples.targets(0)), (7, 5));
        assert!(samples.batch(&[0]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let wide = Sequence::all(vec![0, TRAINED]);
        assert!(SpoolWriter::create(dir.path()).unwrap().push(&wide).is_err());
    }
}
