//! Batches of coming steps, read on a thread of their own so that the trainer never waits for them.

use crate::{Error, Result, data::Samples, model::Batch};
use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread::{Builder, JoinHandle},
};

/// Batches that are read ahead of their use.
const AHEAD: usize = 4;

/// Reads the batches of a list one after the other, each with a word about it. Ends its thread when it is dropped.
pub struct Loader<T> {
    batches: Option<Receiver<Result<(T, Batch)>>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Loader<T> {
    /// Begins to read; `list` gives the indices of each batch.
    pub fn start(samples: Samples, list: impl Iterator<Item = (T, Vec<u32>)> + Send + 'static) -> Result<Self> {
        let (send, batches) = sync_channel(AHEAD);
        let read = move || {
            for (word, indices) in list {
                let read = samples.batch(&indices).map(|batch| (word, batch));
                let failed = read.is_err();
                // Nobody takes it any more: the run has ended.
                if send.send(read).is_err() || failed {
                    return;
                }
            }
        };
        let thread = Builder::new().name("loader".into()).spawn(read);
        let thread = thread.map_err(|e| Error::Internal(format!("no thread could be started: {e}")))?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }
}

impl<T> Iterator for Loader<T> {
    type Item = Result<(T, Batch)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl<T> Drop for Loader<T> {
    fn drop(&mut self) {
        // First the channel, so that a thread that waits to send wakes up and ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Sequence, SpoolWriter, samples::Part};
    use std::sync::Arc;

    fn samples(mut writer: SpoolWriter) -> Samples {
        (0..10).for_each(|i| writer.push(&Sequence::all(vec![i, i + 1])).unwrap());
        Samples::whole(writer).unwrap()
    }

    #[test]
    fn batches_come_in_their_order_and_a_dropped_loader_ends() {
        let dir = tempfile::tempdir().unwrap();
        let samples = samples(SpoolWriter::nameless(dir.path()).unwrap());
        let list = |end: u32| (0..end).map(|i| (i, vec![i % 10, (i + 3) % 10]));
        let read: Vec<_> = Loader::start(samples.clone(), list(25)).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), 25);
        for (i, batch) in read {
            let (a, b) = (i % 10, (i + 3) % 10);
            assert_eq!(batch.ids, [a, a + 1, b, b + 1]);
        }
        let mut endless = Loader::start(samples, list(u32::MAX)).unwrap();
        assert_eq!(endless.next().unwrap().unwrap().0, 0);
        drop(endless);
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_an_error_and_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::nameless(dir.path()).unwrap();
        writer.push(&Sequence::all(vec![1, 2])).unwrap();
        let estimated = Arc::new(writer.finish().unwrap().stretched(2));
        let samples = Samples::of(vec![Part::rows(estimated, 2).unwrap()]);
        let mut loader = Loader::start(samples, [((), vec![0]), ((), vec![1])].into_iter()).unwrap();
        assert!(loader.next().unwrap().is_err());
        assert!(loader.next().is_none());
    }
}
