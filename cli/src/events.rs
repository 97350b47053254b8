//! The file in which a worker says everything, and the lock that it holds while it lives.

use crate::outcome::{Failure, Outcome};
use api::{Event, Line, Problem};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `RUN_DIR/events.jsonl`, open for more.
pub struct EventLog {
    file: File,
    seq: u64,
}

impl EventLog {
    /// Goes on after the last whole line; half a line, from a worker that was killed, is cut off.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("events.jsonl");
        let mut file = File::options().create(true).read(true).append(true).open(path)?;
        let (mut seq, mut whole) = (0, 0);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.ends_with(b"\n") {
                whole += line.len() as u64;
                seq += 1;
            }
            line.clear();
        }
        file.set_len(whole)?;
        file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file, seq })
    }

    /// Writes one line, at once.
    pub fn write(&mut self, event: Event) -> io::Result<Line> {
        let line = Line { seq: self.seq + 1, time: now(), event };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.seq += 1;
        Ok(line)
    }
}

/// Held for the worker's life: whoever finds it free knows that the worker is gone.
pub fn lock(dir: &Path) -> Outcome<File> {
    let path = dir.join("worker.lock");
    let file = File::options().create(true).append(true).open(&path).map_err(|e| Failure::io(&path, e))?;
    match patiently(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) => Err(Failure::io(&path, e)),
        Err(TryLockError::WouldBlock) => {
            let shown = dir.display();
            Err(Failure::held(
                Problem::new(
                    "run_in_use",
                    format!("Another process works in {shown}."),
                    format!("另一个进程正在使用 {shown}。"),
                )
                .hint(
                    "Wait for it or stop it, or choose another output_dir.",
                    "请等待或停止它，或选择其他 output_dir。",
                )
                .field("output_dir"),
            ))
        }
    }
}

/// The server looks at the lock now and then, for a moment; another worker keeps it.
fn patiently(file: &File) -> Result<(), TryLockError> {
    for _ in 0..20 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(50)),
            other => return other,
        }
    }
    file.try_lock()
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn goes_on_after_the_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let started = || Event::Started { pid: 1, version: "0".into() };
        EventLog::open(dir.path()).unwrap().write(started()).unwrap();
        let path = dir.path().join("events.jsonl");
        File::options().append(true).open(&path).unwrap().write_all(b"{\"seq\":2,\"ti").unwrap();
        assert_eq!(EventLog::open(dir.path()).unwrap().write(started()).unwrap().seq, 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.iter().map(|l| l.seq).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_second_worker_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().code, 3);
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
