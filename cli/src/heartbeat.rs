//! A worker's sign of life, beside its events: that it is there, and whether its work advances.

use crate::events;
use api::job::Heartbeat;
use engine::{memory, pulse};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

/// A worker whose work doesn't move for so long gives no more sign of life until it does: longer than any single operation.
const STILL: Duration = Duration::from_secs(60);

/// Writes [`Heartbeat::FILE`] into a run folder again and again; dropped, it takes the file away, so that only the worker
/// that was killed leaves one behind.
pub struct Heart {
    file: PathBuf,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    pub fn start(dir: &Path) -> Self {
        let (stop, stopped) = channel();
        let file = dir.join(Heartbeat::FILE);
        let to = file.clone();
        let (mut work, mut moved) = (pulse::count(), Instant::now());
        let beat = move || loop {
            if pulse::count() != work {
                (work, moved) = (pulse::count(), Instant::now());
            }
            if moved.elapsed() < STILL {
                beat(&to);
            }
            if stopped.recv_timeout(Duration::from_secs(Heartbeat::SECONDS)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        // Without a thread the run goes on; it only looks as if it had stalled.
        let thread = Builder::new().name("heartbeat".into()).spawn(beat).ok();
        Self { file, stop: Some(stop), thread }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop = None;
        self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.file);
    }
}

/// A beat that can't be written is one that wasn't: whoever reads judges by the time in it.
fn beat(file: &Path) {
    let beat = Heartbeat { time: events::now(), work: pulse::count(), peak_memory: memory::peak() };
    let part = file.with_extension("json.part");
    let written = serde_json::to_vec(&beat).map_err(Into::into).and_then(|text| fs::write(&part, text));
    let _ = written.and_then(|()| fs::rename(&part, file));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_living_worker_beats_and_leaves_nothing_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let heart = Heart::start(dir.path());
        let read =
            || -> Option<Heartbeat> { serde_json::from_slice(&fs::read(dir.path().join(Heartbeat::FILE)).ok()?).ok() };
        let first = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            read()
        });
        let first = first.unwrap();
        assert!((events::now() - first.time).abs() < 10.0 && first.peak_memory > Some(0), "{first:?}");
        drop(heart);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
