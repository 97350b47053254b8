//! `lathe checkpoint verify` and `lathe checkpoint list`.

use crate::{
    args::{Checkpoint, CheckpointPlace},
    environment::Environment,
    outcome::{Failure, Outcome},
    say::Say,
};
use api::Problem;
use engine::train::checkpoint::{Report, all, glance, is_one, name, verify};
use serde_json::json;
use std::path::PathBuf;

pub fn run(command: Checkpoint, environment: &Environment, say: &Say) -> Outcome {
    match command {
        Checkpoint::Verify(place) => verify_all(&folders(&place, environment)?, say),
        Checkpoint::List(place) => {
            let reports: Vec<Report> = folders(&place, environment)?.iter().map(|dir| glance(dir)).collect();
            say.result(&json!({ "checkpoints": reports }), || lines(&reports, say));
            Ok(())
        }
    }
}

fn verify_all(folders: &[PathBuf], say: &Say) -> Outcome {
    let reports: Vec<Report> = folders.iter().map(|dir| verify(dir)).collect();
    let damaged: Vec<String> =
        reports.iter().filter(|report| !report.faults.is_empty()).map(|report| name(&report.path)).collect();
    say.result(&json!({ "checkpoints": reports, "whole": damaged.is_empty() }), || lines(&reports, say));
    if damaged.is_empty() {
        return Ok(());
    }
    let (count, of, named) = (damaged.len(), reports.len(), damaged.join(", "));
    let problem = Problem::new(
        "damaged_checkpoint",
        format!("{count} of {of} checkpoints can't be used: {named}."),
        format!("{of} 个检查点中有 {count} 个无法使用：{named}。"),
    )
    .hint(
        "resume_from_checkpoint=true goes on from the newest whole one.",
        "resume_from_checkpoint=true 会从最新的完整检查点继续。",
    );
    Err(Failure { is_told: true, ..Failure::failed(problem) })
}

/// The checkpoints that a place stands for: one, or those of a run by its folder or its id.
fn folders(place: &CheckpointPlace, environment: &Environment) -> Outcome<Vec<PathBuf>> {
    let given = &place.place;
    let is_id = !given.exists() && given.components().count() == 1;
    let dir = if is_id { environment.places().runs().join(given) } else { given.clone() };
    if is_one(&dir) {
        return Ok(vec![dir]);
    }
    let found: Vec<PathBuf> = all(&dir).into_iter().map(|(_, path)| path).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let shown = dir.display();
    Err(Failure::wrong(
        Problem::new(
            "no_checkpoint",
            format!("{shown} is no checkpoint and no run with one."),
            format!("{shown} 不是检查点，也不是含有检查点的运行。"),
        )
        .hint(
            "Give a folder named checkpoint-…, or that of a run.",
            "请给出名为 checkpoint-… 的文件夹，或运行的文件夹。",
        ),
    ))
}

/// A line for each checkpoint, and below it one for each damaged file.
fn lines(reports: &[Report], say: &Say) -> String {
    let words = if say.is_chinese() { ["完整", "已损坏", "最佳"] } else { ["whole", "damaged", "best"] };
    let line = |report: &Report| {
        let state = if report.faults.is_empty() { words[0] } else { words[1] };
        let best = if report.best { words[2] } else { "" };
        let (megabytes, values) = (report.bytes as f64 / 1e6, report.values as f64 / 1e6);
        let head = format!(
            "{:<20} {state:<8} {:>8.2} epochs {megabytes:>10.2} MB {:>6} tensors {values:>10.3}M values  {best}",
            name(&report.path),
            report.epoch,
            report.tensors
        );
        let faults = report.faults.iter().map(|fault| format!("  {}", say.text(&fault.what)));
        std::iter::once(head.trim_end().to_string()).chain(faults).collect::<Vec<_>>().join("\n")
    };
    reports.iter().map(line).collect::<Vec<_>>().join("\n")
}
