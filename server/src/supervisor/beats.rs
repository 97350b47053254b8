//! Whether a worker that is there also lives: it writes a [`Heartbeat`] anew every two seconds.

use api::job::Heartbeat;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// A worker that missed three beats, and a little, is stalled.
const SILENCE: Duration = Duration::from_secs(3 * Heartbeat::SECONDS + 1);

/// The beats of one worker, as they were seen. Only whether the file changed counts, not the times in it: the clock may
/// be set at any moment.
pub struct Beats {
    path: PathBuf,
    last: Option<(SystemTime, u64)>,
    /// When the last one was seen, by a clock that nobody sets.
    seen: Instant,
}

impl Beats {
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join(Heartbeat::FILE), last: None, seen: Instant::now() }
    }

    /// Looks once; how long the worker has been silent, if that is too long. One that never gave a sign of life may be of
    /// a kind that gives none.
    pub fn missed(&mut self) -> Option<Duration> {
        use std::os::unix::fs::MetadataExt;
        let now = fs::metadata(&self.path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.ino())));
        if now != self.last {
            (self.last, self.seen) = (now, Instant::now());
        }
        let silent = self.seen.elapsed();
        (now.is_some() && silent >= SILENCE).then_some(silent)
    }
}
