//! Which checkpoint a run goes on from: the newest whole one, the best, or one that is named. What is damaged is named and
//! passed over.

use super::{Damaged, Fault, Manifest, all, best, damage, is_one, manifest, name, newest, told};
use crate::Result;
use api::Problem;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A whole checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub path: PathBuf,
    pub manifest: Manifest,
}

/// What `resume_from_checkpoint` asks for in the run folder `dir`; nothing if it asks for none, or `true` where there is none
/// yet. `note` hears what was passed over.
pub fn choose(wish: Option<&Value>, dir: &Path, note: &mut dyn FnMut(Problem) -> Result<()>) -> Result<Option<Chosen>> {
    let path = match wish {
        None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
        Some(Value::String(word)) if word == "best" => best(dir).ok_or_else(|| no_best(dir))?,
        Some(Value::String(path)) if path != "true" => PathBuf::from(path),
        Some(_) => {
            let found = newest_told(dir, note)?;
            if found.is_none() {
                note(Problem::new(
                    "no_checkpoint",
                    "There is no whole checkpoint to go on from: the run begins with its first step.",
                    "没有可继续的完整检查点：运行将从第一步开始。",
                ))?;
            }
            return opened(found);
        }
    };
    // A run folder stands for its newest.
    if !is_one(&path) && !all(&path).is_empty() {
        return opened(newest_told(&path, note)?);
    }
    let faults = damage(&path);
    if faults.is_empty() {
        return opened(Some(path));
    }
    // A name that was never a checkpoint is an error of who gave it; a damaged one has others beside it.
    let instead = match path.parent().filter(|_| path.is_dir()) {
        Some(run) => newest(run).0,
        None => None,
    };
    let Some((instead, _)) = instead else { return Err(no_checkpoint(&path, &faults).into()) };
    note(passed_over(&path, &faults, Some(&instead)))?;
    opened(Some(instead))
}

fn newest_told(dir: &Path, note: &mut dyn FnMut(Problem) -> Result<()>) -> Result<Option<PathBuf>> {
    let (found, damaged) = newest(dir);
    let found = found.map(|(path, _)| path);
    for Damaged { path, faults } in damaged {
        note(passed_over(&path, &faults, found.as_deref()))?;
    }
    Ok(found)
}

fn opened(path: Option<PathBuf>) -> Result<Option<Chosen>> {
    let open = |path: PathBuf| match manifest(&path) {
        Ok(manifest) => Ok(Chosen { path, manifest }),
        Err(fault) => Err(no_checkpoint(&path, &[fault]).into()),
    };
    path.map(open).transpose()
}

fn no_best(dir: &Path) -> Problem {
    let shown = dir.display();
    Problem::new(
        "no_best_checkpoint",
        format!("{shown} has no best checkpoint: none was looked for, or none was measured yet."),
        format!("{shown} 中没有最佳检查点：未要求寻找，或尚未测量。"),
    )
    .hint(
        "Set resume_from_checkpoint to true for the newest; load_best_model_at_end looks for the best.",
        "将 resume_from_checkpoint 设为 true 使用最新的；load_best_model_at_end 会寻找最佳的。",
    )
    .field("resume_from_checkpoint")
}

fn no_checkpoint(path: &Path, faults: &[Fault]) -> Problem {
    let (shown, faults) = (path.display(), told(faults));
    Problem::new(
        "damaged_checkpoint",
        format!("{shown} is no whole checkpoint: {}.", faults.en),
        format!("{shown} 不是完整的检查点：{}。", faults.zh),
    )
    .hint("Choose another, or true for the newest whole one.", "请换一个，或设为 true 使用最新的完整检查点。")
    .field("resume_from_checkpoint")
}

fn passed_over(path: &Path, faults: &[Fault], instead: Option<&Path>) -> Problem {
    let (shown, faults) = (name(path), told(faults));
    let (en, zh) = match instead.map(name) {
        Some(instead) => (format!(" The run goes on from {instead}."), format!("运行从 {instead} 继续。")),
        None => (String::new(), String::new()),
    };
    Problem::new(
        "damaged_checkpoint",
        format!("{shown} is damaged and was passed over: {}.{en}", faults.en),
        format!("{shown} 已损坏，已跳过：{}。{zh}", faults.zh),
    )
}
