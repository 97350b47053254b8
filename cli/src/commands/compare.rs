//! `lathe rerun` and `lathe diff`: whether a run can be made again to the bit, and what differs between two runs.

use super::train;
use crate::{
    environment::Environment,
    gpu, home, job,
    outcome::{FAILED, Failure, Outcome},
    runs::RunFolder,
    say::Say,
    signals,
};
use api::{JobKind, Problem, job::Spec};
use engine::{
    Places,
    provenance::{Difference, Provenance, difference},
};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Hashes are shown up to here.
const SHOWN: usize = 16;

/// Makes a run again and holds what it leaves against what the first one left. Ends with 0 if all files are the same to the
/// bit, with 1 if not.
pub fn rerun(run: &str, environment: &Environment, say: &Say) -> Outcome {
    home::set_up(&environment.home)?;
    let places = environment.places();
    let dir = find(run, &places)?;
    let first = provenance(&dir)?;
    if first.results.is_empty() {
        return Err(Failure::wrong(unfinished(&dir)));
    }
    let mut config = first.config.clone();
    for key in ["output_dir", "overwrite_output_dir", "resume_from_checkpoint"] {
        config.remove(key);
    }
    config.set("run_name", format!("{}-again", name(&dir)));
    gpu::hand_over(&config)?;
    let prepared = engine::prepare::prepare(&config, &places, &mut |_, _| Ok(())).map_err(Failure::refused)?;
    let folder = RunFolder::make(JobKind::Train, config, &places)?;
    let made = folder.dir.clone();
    match say.json {
        // stdout has one object: what came of it.
        true => job::run(&folder, Some(prepared), environment, &signals::stop_flag(), &mut |_| {})?,
        false => train::work(folder, Some(prepared), environment, say)?,
    }
    let second = provenance(&made)?;
    let differs = difference(&first, &second);
    let is_same = !second.results.is_empty() && first.results == second.results;
    let result = json!({
        "first": dir, "second": made, "same": is_same, "results": second.results, "differences": differs
    });
    say.result(&result, || {
        let verdict = match (is_same, say.is_chinese()) {
            (true, false) => "The same to the bit:",
            (true, true) => "逐位一致：",
            (false, false) => "Not the same:",
            (false, true) => "不一致：",
        };
        let files = second.results.iter().map(|(file, sum)| format!("  {file}  {sum}"));
        let lines = if is_same { files.collect() } else { table(&differs, [&dir, &made]) };
        [vec![verdict.to_string()], lines].concat().join("\n")
    });
    if is_same {
        return Ok(());
    }
    let problem = Problem::new(
        "not_reproduced",
        format!("{} was made again in {} and came out otherwise.", dir.display(), made.display()),
        format!("{} 重新运行于 {}，结果不一致。", dir.display(), made.display()),
    );
    let problem = problem.hint("What differs is listed above.", "差异见上。");
    Err(Failure { is_told: true, ..Failure::new(FAILED, vec![problem]) })
}

/// Lists what differs between two runs: what they are made of, what they left, what they measured last.
pub fn diff(runs: [&str; 2], environment: &Environment, say: &Say) -> Outcome {
    let places = environment.places();
    let dirs = [find(runs[0], &places)?, find(runs[1], &places)?];
    let mut differs = difference(&provenance(&dirs[0])?, &provenance(&dirs[1])?);
    differs.extend(metrics([&dirs[0], &dirs[1]]));
    say.result(&json!({"runs": dirs, "differences": differs}), || match differs.is_empty() {
        true if say.is_chinese() => "没有差异。".into(),
        true => "Nothing differs.".into(),
        false => table(&differs, [&dirs[0], &dirs[1]]).join("\n"),
    });
    Ok(())
}

/// A run by its folder or its id.
fn find(run: &str, places: &Places) -> Outcome<PathBuf> {
    let folder = Path::new(run);
    let dir = if folder.join("spec.json").is_file() { folder.to_path_buf() } else { places.runs().join(run) };
    let known = fs::read(dir.join("spec.json")).ok().and_then(|text| serde_json::from_slice::<Spec>(&text).ok());
    match known {
        Some(spec) if spec.kind == JobKind::Train => Ok(dir),
        _ => Err(Failure::wrong(
            Problem::new("no_run", format!("{run:?} is no training run."), format!("{run:?} 不是训练任务。")).hint(
                "Give the id that the studio shows, or the path of a run folder.",
                "请给出工作室中显示的编号，或运行文件夹的路径。",
            ),
        )),
    }
}

fn provenance(dir: &Path) -> Outcome<Provenance> {
    Provenance::read(dir).ok_or_else(|| {
        let shown = dir.display();
        Failure::wrong(
            Problem::new(
                "no_provenance",
                format!("{shown} doesn't say what it was made of."),
                format!("{shown} 没有记录其来源。"),
            )
            .hint(
                "It never began, or an older version made it: start it again.",
                "它从未开始，或由旧版本创建：请重新开始。",
            ),
        )
    })
}

fn unfinished(dir: &Path) -> Problem {
    let shown = dir.display();
    Problem::new("unfinished", format!("{shown} has no result yet."), format!("{shown} 尚无结果。"))
        .hint("Resume it first.", "请先继续并完成它。")
}

fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the runs say that they measured in the end.
fn metrics(dirs: [&Path; 2]) -> Vec<Difference> {
    let read = |dir: &Path| -> Map<String, Value> {
        let text = fs::read(dir.join("all_results.json")).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    };
    let found = dirs.map(read);
    let mut names: Vec<&String> = found.iter().flat_map(Map::keys).collect();
    names.sort();
    names.dedup();
    let value = |which: usize, name: &String| found[which].get(name).cloned().unwrap_or_default();
    let both = names.into_iter().map(|name| (name, [value(0, name), value(1, name)]));
    let differs = both.filter(|(_, [a, b])| a != b);
    differs.map(|(name, values)| Difference { group: "metric", name: name.clone(), values }).collect()
}

/// Group, name and both values in columns, with a heading.
fn table(differs: &[Difference], dirs: [&Path; 2]) -> Vec<String> {
    let row = |d: &Difference| [d.group.to_string(), d.name.clone(), shown(&d.values[0]), shown(&d.values[1])];
    let heading = [String::new(), String::new(), name(dirs[0]), name(dirs[1])];
    let rows: Vec<[String; 4]> = std::iter::once(heading).chain(differs.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2].map(width);
    let line = |[a, b, c, d]: &[String; 4]| {
        format!("{a:<0$}  {b:<1$}  {c:<2$}  {d}", widths[0], widths[1], widths[2]).trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { format!("{}…", &text[..SHOWN]) } else { text }
}
