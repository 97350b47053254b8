//! Room on the disk: for a whole run before its first step, and for each checkpoint before it is written.

use super::all;
use crate::{Result, files::disk};
use api::{Problem, plan::gigabytes};
use std::{io, path::Path};

/// What the files of a run take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Of one checkpoint without the log of its run.
    pub checkpoint: u64,
    /// Of the log when the run ends; a checkpoint holds it up to its step.
    pub log: u64,
    /// Checkpoints that the run writes.
    pub saves: u64,
    /// Checkpoints that stand at once, with the one that is being written.
    pub at_once: u64,
    /// Of the result.
    pub result: u64,
}

impl Space {
    pub fn total(&self) -> u64 {
        // The last ones stand, and the log grows evenly: of `saves` logs, the i-th has i / saves of its lines.
        let (saves, standing) = (u128::from(self.saves.max(1)), u128::from(self.at_once.min(self.saves)));
        let logs = u128::from(self.log) * standing * (2 * saves - standing + 1) / (2 * saves);
        let logs = u64::try_from(logs).unwrap_or(u64::MAX);
        self.result.saturating_add(self.checkpoint.saturating_mul(self.at_once)).saturating_add(logs)
    }

    /// The log of so many lines, as measured: each has some figures.
    pub fn log(lines: u64) -> u64 {
        const LINE: u64 = 170;
        lines.saturating_mul(LINE)
    }

    /// How many checkpoints stand at once of a run that saves `times`: one more than are kept while the next is written.
    pub fn at_once(times: u64, limit: Option<usize>, pins_best: bool) -> u64 {
        let kept = |limit: usize| limit.max(2) as u64 + 1 + u64::from(pins_best && limit < 2);
        limit.map_or(times, |limit| times.min(kept(limit)))
    }
}

/// What a checkpoint holds besides the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contents {
    /// Values of the weights, in float32, and how many tensors they are.
    pub values: u64,
    pub tensors: u64,
    /// Bytes of the optimizer's state and of averages.
    pub state: u64,
    /// Parameters that are trained: each has state of its own.
    pub trained: u64,
}

impl Contents {
    /// Bytes of its files, as measured: a tensor is named in a header, and the texts (configuration, card, manifest) are
    /// always the same.
    pub fn bytes(&self) -> u64 {
        const HEADER: u64 = 112;
        const TEXTS: u64 = 5_500;
        let headers = self.tensors + if self.state > 0 { 2 * self.trained } else { 0 };
        self.values * 4 + self.state + headers * HEADER + TEXTS
    }
}

/// Refuses a run whose checkpoints would not fit on the disk of its folder, with a fifth to spare. Those of it that stand
/// there already have their room.
pub fn room_for(space: Space, dir: &Path) -> Result<()> {
    let Some(free) = disk::free(dir) else { return Ok(()) };
    let standing = (all(dir).len() as u64).min(space.at_once.saturating_sub(1));
    let wanted = Space { at_once: space.at_once - standing, ..space }.total();
    let needed = wanted.saturating_add(wanted / 5);
    if free >= needed {
        return Ok(());
    }
    let [en, zh] = lacking(needed, free);
    let (count, each) = (space.at_once, megabytes(space.checkpoint.saturating_add(space.log)));
    Err(Problem::new(
        "disk_full",
        format!("The run has no room: {en}. It keeps {count} checkpoints of up to {each} at once."),
        format!("运行空间不足：{zh}。它会同时保留 {count} 个检查点，每个最多 {each}。"),
    )
    .hint(
        "Free some space, or set save_total_limit or a larger save_steps.",
        "请腾出空间，或设置 save_total_limit、调大 save_steps。",
    )
    .field("save_steps")
    .into())
}

/// A clause with both figures.
pub fn lacking(needed: u64, free: u64) -> [String; 2] {
    let (needed, free) = (megabytes(needed), megabytes(free));
    [format!("{needed} are needed on the disk, {free} are free"), format!("磁盘需要 {needed}，可用 {free}")]
}

/// A clause about an error that is no lack of space.
pub fn faulty(path: &Path, error: &io::Error) -> [String; 2] {
    let shown = path.display();
    [format!("{shown} could not be written ({error})"), format!("无法写入 {shown}（{error}）")]
}

pub fn is_lack(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn megabytes(bytes: u64) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => gigabytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_grows_from_checkpoint_to_checkpoint() {
        let space = |at_once| Space { checkpoint: 10, log: 100, saves: 4, at_once, result: 1 };
        // 25 + 50 + 75 + 100 with all of them, 75 + 100 with the last two.
        assert_eq!([space(4).total(), space(2).total(), space(0).total()], [1 + 40 + 250, 1 + 20 + 175, 1]);
    }
}
