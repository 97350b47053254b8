//! `rollouts.jsonl`: what each step sampled, a line for each prompt. The newest steps are kept; a resumed run drops the lines
//! of steps that it makes again.

use crate::{Error, Result, files::atomic::write_atomically};
use api::rollout::Rollout;
use std::{fs::OpenOptions, io::Write, path::Path};

pub const FILE: &str = "rollouts.jsonl";

/// Bytes that the file may have; then the older half goes.
const MOST: usize = 4 << 20;

#[derive(Default)]
pub struct Recorder {
    /// Bytes of the file, once it was looked at.
    size: Option<usize>,
}

impl Recorder {
    /// Appends what `step` sampled.
    pub fn write(&mut self, dir: &Path, step: u64, rollouts: &[Rollout]) -> Result<()> {
        let path = dir.join(FILE);
        let size = match self.size {
            Some(size) => size,
            None => keep(&path, usize::MAX, |line| line < step)?,
        };
        let mut text = String::new();
        for rollout in rollouts {
            text += &serde_json::to_string(rollout).map_err(|e| Error::Internal(e.to_string()))?;
            text.push('\n');
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(Error::io(&path))?;
        let size = size + text.len();
        self.size = Some(if size > MOST { keep(&path, MOST / 2, |_| true)? } else { size });
        Ok(())
    }
}

/// Keeps the newest lines whose step is wanted, up to `most` bytes, but always those of the last step; bytes that are left.
fn keep(path: &Path, most: usize, wanted: impl Fn(u64) -> bool) -> Result<usize> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let step = |line: &str| serde_json::from_str::<Rollout>(line).ok().map(|rollout| rollout.step);
    let lines: Vec<(u64, &str)> =
        text.lines().filter_map(|line| Some((step(line)?, line))).filter(|(step, _)| wanted(*step)).collect();
    let last = lines.last().map(|(step, _)| *step);
    let mut size = 0;
    let newest = lines.iter().rev().take_while(|(step, line)| {
        size += line.len() + 1;
        size <= most || Some(*step) == last
    });
    let kept: Vec<&str> = newest.map(|(_, line)| *line).collect();
    let text: String = kept.into_iter().rev().flat_map(|line| [line, "\n"]).collect();
    write_atomically(path, text.as_bytes())?;
    Ok(text.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rollouts(step: u64, bytes: usize) -> Vec<Rollout> {
        vec![Rollout { step, prompt: "x".repeat(bytes), reference: None, samples: Vec::new() }]
    }

    fn steps(dir: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        text.lines().map(|line| serde_json::from_str::<Rollout>(line).unwrap().step).collect()
    }

    #[test]
    fn a_resumed_run_writes_its_steps_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::default();
        (1..=4).for_each(|step| recorder.write(dir.path(), step, &rollouts(step, 10)).unwrap());
        assert_eq!(steps(dir.path()), [1, 2, 3, 4]);
        Recorder::default().write(dir.path(), 3, &rollouts(3, 10)).unwrap();
        assert_eq!(steps(dir.path()), [1, 2, 3]);
    }

    #[test]
    fn the_newest_steps_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::default();
        (1..=10).for_each(|step| recorder.write(dir.path(), step, &rollouts(step, MOST / 5)).unwrap());
        let kept = steps(dir.path());
        assert_eq!(kept.last(), Some(&10));
        assert!(kept.len() >= 2 && kept.len() <= 5, "{kept:?}");
        recorder.write(dir.path(), 11, &rollouts(11, 2 * MOST)).unwrap();
        assert_eq!(steps(dir.path()), [11]);
    }
}
