//! Files become datasets and stop being some: the entries of `dataset_info.json`.

use crate::data::{FORMATS, Registry, Row, Source, edit, example::at_row, info, reader};
use crate::{Error, Result};
use api::Problem;
use api::data::DatasetInfo;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// Registers `file`, which stands in the dataset folder, as the dataset `name`: recognises its format from its first rows
/// and writes `dataset_info.json`. A file that can't be read is an error and changes nothing; faults of single rows, and
/// columns of unknown names, come back in the answer's `problem`.
pub fn register(dir: &Path, name: &str, file: &str) -> Result<DatasetInfo> {
    check_name(name)?;
    let path = info::confined(dir, file)?;
    let mut entry = recognise(&path, true)?;
    entry.shift_insert(0, "file_name".into(), file.into());
    change(dir, |entries| {
        if entries.contains_key(name) {
            return Err(Problem::new(
                "dataset_taken",
                format!("There already is a dataset {name:?}."),
                format!("已有名为“{name}”的数据集。"),
            )
            .hint("Choose another name, or delete that dataset first.", "请换一个名字，或先删除该数据集。")
            .field("name")
            .into());
        }
        entries.insert(name.into(), Value::Object(entry));
        Ok(())
    })?;
    super::one(dir, name, None)
}

/// A file that no `dataset_info.json` names, as a dataset by itself: its name, and a registry that knows it.
pub fn one_file(path: &Path) -> Result<(Registry, String)> {
    let mut entry = recognise(path, false)?;
    let (dir, file) = (path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")), path.file_name());
    let file = file.unwrap_or_default().to_string_lossy().into_owned();
    entry.shift_insert(0, "file_name".into(), file.clone().into());
    let registry = Registry::of(dir, info::Entry::parse(&file, &Value::Object(entry)));
    Ok((registry, file))
}

/// Takes the dataset out of `dataset_info.json`, and deletes its file if that stands in the dataset folder itself and no
/// other dataset uses it.
pub fn forget(dir: &Path, name: &str) -> Result<()> {
    let registry = Registry::open(dir)?;
    let source = match registry.entries().iter().find(|entry| entry.name == name) {
        Some(entry) => entry.source.clone(),
        None => return registry.entry(name).map(|_| ()),
    };
    let mut removed = None;
    change(dir, |entries| {
        removed = entries.shift_remove(name);
        Ok(())
    })?;
    if let Some(removed) = removed {
        edit::forget_before(dir, &removed)?;
    }
    let shared = registry.entries().iter().any(|entry| entry.name != name && entry.source == source);
    if let Source::File(file) = &source
        && !shared
        && Path::new(file).components().count() == 1
        && file != info::FILE
    {
        let path = dir.join(file);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// The `dataset_info.json` entry, without the file, of a file whose first row of a known format this is.
pub(super) fn of_row(row: &Row) -> Option<Row> {
    FORMATS.iter().find_map(|format| format.recognise(row))
}

/// The `dataset_info.json` entry, without the file, of the data in `path`: that of the first row that a format knows. With
/// `any`, that of rows with other columns says nothing; otherwise they are a problem.
fn recognise(path: &Path, any: bool) -> Result<Row> {
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut first, mut found, mut fault) = (None, None, None);
    reader::read(path, &mut |row, value| {
        match value {
            Err(problem) => fault = fault.take().or(Some(at_row(*problem, &shown, row + 1))),
            Ok(value) => {
                found = value.as_object().and_then(of_row);
                first = first.take().or(Some(value));
            }
        }
        Ok(if found.is_some() || row >= 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(entry) = found {
        return Ok(entry);
    }
    let columns = match (first, fault) {
        (Some(Value::Object(row)), _) if any && !row.is_empty() => return Ok(Row::new()),
        (Some(Value::Object(row)), _) => row.keys().take(20).cloned().collect::<Vec<_>>().join(", "),
        (Some(other), _) => other.to_string().chars().take(40).collect(),
        (None, Some(fault)) => return Err(fault.field("file").into()),
        (None, None) => {
            let problem = Problem::new("dataset_empty", format!("{shown} has no rows."), format!("{shown} 没有数据。"));
            return Err(problem.hint("Choose a file with rows.", "请选择含有数据的文件。").field("file").into());
        }
    };
    Err(Problem::new(
        "dataset_unknown",
        format!("The rows of {shown} are of no known format; the first has: {columns}."),
        format!("无法识别 {shown} 的格式；第一行包含：{columns}。"),
    )
    .hint(
        "Name the columns instruction and output, or conversations, messages, or text.",
        "请使用列名 instruction 与 output，或 conversations、messages、text。",
    )
    .field("file")
    .into())
}

/// Changes `dataset_info.json` under a lock and in one piece: written beside, flushed to the disk, renamed.
pub fn change(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> Result<()>) -> Result<()> {
    let lock_path = dir.join(".dataset_info.lock");
    let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
    lock.lock().map_err(Error::io(&lock_path))?;
    let mut entries = info::read_raw(dir)?;
    edit(&mut entries)?;
    let mut text = serde_json::to_string_pretty(&entries).map_err(|e| Error::Internal(e.to_string()))?;
    text.push('\n');
    let (path, beside) = (dir.join(info::FILE), dir.join(".dataset_info.json.new"));
    let mut file = File::create(&beside).map_err(Error::io(&beside))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io(&beside))?;
    fs::rename(&beside, &path).map_err(Error::io(&path))?;
    // So that the new name survives a power cut; not every file system can.
    if let Ok(folder) = File::open(dir) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Names are one to 64 letters, digits, `_`, `-` and `.`, and don't begin with a point: they are words in YAML and in URLs.
fn check_name(name: &str) -> Result<()> {
    let known = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let len = name.chars().count();
    if (1..=64).contains(&len) && !name.starts_with('.') && name.chars().all(known) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Problem::new(
        "dataset_name",
        format!("{shown:?} can't be the name of a dataset."),
        format!("“{shown}”不能作为数据集名称。"),
    )
    .hint("Use 1 to 64 letters, digits, _ - and points.", "请使用 1 到 64 个字母、数字、_、- 或点。")
    .field("name")
    .into())
}
