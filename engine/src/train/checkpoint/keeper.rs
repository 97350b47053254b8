//! The checkpoints of a run while it goes on: which are written, which stay, and what is said where a disk refuses one.

use super::{Manifest, all, name, order, remove, space, verify::damage, write};
use crate::{Error, Result, files::disk};
use api::Problem;
use candle_core::Tensor;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

/// Checkpoints that stand at least while a run goes on: one may be damaged by what no program can prevent.
const LEAST: usize = 2;

pub struct Keeper {
    dir: PathBuf,
    /// `save_total_limit`.
    limit: Option<usize>,
    /// Bytes of a checkpoint: planned, then as the last one was.
    bytes: u64,
    /// Read whole by this process.
    verified: BTreeSet<String>,
    serial: u64,
    last: Option<u64>,
}

/// A checkpoint that was written and read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub name: String,
    pub bytes: u64,
}

impl Keeper {
    /// Of a run folder that this process holds; `bytes` is what a checkpoint will take, about.
    pub fn open(dir: &Path, limit: Option<usize>, bytes: u64) -> Self {
        let serial = all(dir).iter().filter_map(|(_, path)| order(path)).max().unwrap_or(0);
        Self { dir: dir.into(), limit, bytes, verified: BTreeSet::new(), serial, last: None }
    }

    /// Hears that the run goes on from its own checkpoint of this step.
    pub fn begins_at(&mut self, step: u64) {
        self.last = Some(step);
    }

    /// Whether the newest checkpoint is of this step.
    pub fn has(&self, step: u64) -> bool {
        self.last == Some(step)
    }

    /// Writes a checkpoint as [`write`] does. Where the disk refuses, all that stood before still stands, and the problem
    /// says what is missing.
    pub fn save(
        &mut self,
        manifest: Manifest,
        optimizer: &HashMap<String, Tensor>,
        state: &Value,
        save: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<std::result::Result<Saved, Problem>> {
        let step = manifest.step;
        let lacks = disk::free(&self.dir).filter(|free| *free < self.bytes);
        let written = match lacks {
            Some(free) => return Ok(Err(self.refused(step, space::lacking(self.bytes, free)))),
            None => write(&self.dir, Manifest { serial: self.serial + 1, ..manifest }, optimizer, state, save),
        };
        match written {
            Ok((name, bytes)) => {
                (self.serial, self.bytes, self.last) = (self.serial + 1, bytes, Some(step));
                self.verified.insert(name.clone());
                Ok(Ok(Saved { name, bytes }))
            }
            Err(Error::Io { path, source }) => {
                let free = disk::free(&self.dir).unwrap_or(0);
                let why = match space::is_lack(&source) {
                    true => space::lacking(self.bytes, free),
                    false => space::faulty(&path, &source),
                };
                Ok(Err(self.refused(step, why)))
            }
            Err(other) => Err(other),
        }
    }

    /// Removes what is beyond the limit: while the run goes on at least two that were read back stay, and the best always.
    pub fn prune(&mut self, best: Option<&str>, ended: bool) -> Result<()> {
        let Some(limit) = self.limit else { return Ok(()) };
        let limit = if ended { limit.max(1) } else { limit.max(LEAST) };
        let found: Vec<(String, PathBuf)> = all(&self.dir).into_iter().map(|(_, path)| (name(&path), path)).collect();
        let is_best = |name: &str| best == Some(name);
        // Newest first. The best takes one of the places; only where there is one alone, the newest stands beside it.
        let pinned = found.iter().rposition(|(name, path)| is_best(name) && self.is_whole(name, path));
        let counts = pinned.is_some_and(|at| limit > 1 || at + 1 == found.len());
        let mut places = limit - usize::from(counts);
        for (name, path) in found.iter().rev().filter(|(name, _)| !is_best(name)) {
            if places > 0 && self.is_whole(name, path) {
                places -= 1;
            } else {
                self.verified.remove(name);
                remove(path)?;
            }
        }
        Ok(())
    }

    fn is_whole(&mut self, name: &str, path: &Path) -> bool {
        let whole = self.verified.contains(name) || damage(path).is_empty();
        if whole {
            self.verified.insert(name.into());
        }
        whole
    }

    fn refused(&self, step: u64, [en, zh]: [String; 2]) -> Problem {
        let last = all(&self.dir).pop().map(|(_, path)| name(&path));
        let (kept, kept_zh) = match &last {
            Some(last) => (format!("{last} still stands."), format!("{last} 仍然完好。")),
            None => ("There is no checkpoint before it.".to_string(), "此前没有检查点。".to_string()),
        };
        Problem::new(
            "save_failed",
            format!("The checkpoint of step {step} was not saved: {en}. {kept}"),
            format!("第 {step} 步的检查点未能保存：{zh}。{kept_zh}"),
        )
        .hint(
            "Free some space or mend the disk; what is due next is tried again.",
            "请腾出空间或修复磁盘；下次到期时会再次尝试。",
        )
    }
}
