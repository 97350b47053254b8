//! What the studio asks about datasets: the list, some rows, registering a file, forgetting one.

use super::example::at_row;
use super::{FORMATS, Kind, Registry, Row, Source, hub, info, load, reader};
use crate::{Error, Result};
use api::Problem;
use api::data::{DatasetInfo, Message, Preview, PreviewRow};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// At most this many rows at once.
pub const MAX_ROWS: u64 = 200;
/// Longer raw values are shown cut.
const MAX_SHOWN: usize = 20_000;
/// How far into a file a fault of a row is looked for when it is listed.
const CHECKED_ROWS: usize = 100;

/// Every dataset of a folder, each with its problem if it has one.
pub fn list(dir: &Path) -> Result<Vec<DatasetInfo>> {
    let registry = Registry::open(dir)?;
    Ok(registry.entries().iter().map(|entry| describe(&registry, entry, Some(CHECKED_ROWS))).collect())
}

/// `limit` rows from `offset` on, as they stand and as the trainer reads them.
pub fn rows(dir: &Path, name: &str, offset: u64, limit: u64) -> Result<Preview> {
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    let format = entry.format()?;
    let end = offset.saturating_add(limit.min(MAX_ROWS));
    let mut rows = Vec::new();
    let mut index = 0;
    for file in registry.files(entry)? {
        let read = reader::read(&file, &mut |_, value| {
            if index >= offset && index < end {
                let (raw, example) = match value {
                    Ok(Value::Object(row)) => {
                        let example = format.example(&row, entry);
                        (Value::Object(row), example)
                    }
                    Ok(other) => (other.clone(), reader::object(other).and_then(|row| format.example(&row, entry))),
                    Err(problem) => (Value::Null, Err(problem)),
                };
                let (messages, problem) = match example {
                    Ok(example) => (example.shown().into_iter().map(cut).collect(), None),
                    Err(problem) => (Vec::new(), Some(at_row(*problem, name, index + 1))),
                };
                rows.push(PreviewRow { index, raw: shortened(raw), messages, problem });
            }
            index += 1;
            Ok(if index >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        if let Err(error) = read {
            // The rows before the fault are still shown; the dataset carries the problem.
            if rows.is_empty() {
                return Err(error);
            }
            break;
        }
        if index >= end {
            break;
        }
    }
    let dataset = describe(&registry, entry, Some(CHECKED_ROWS));
    let more = dataset.rows > end;
    Ok(Preview { dataset, offset, rows, more })
}

/// Registers `file`, which stands in the dataset folder, as the dataset `name`: recognises its format from its first rows
/// and writes `dataset_info.json`. A file that can't be read or recognised is an error and changes nothing; faults of
/// single rows come back in the answer's `problem`.
pub fn register(dir: &Path, name: &str, file: &str) -> Result<DatasetInfo> {
    check_name(name)?;
    let path = info::confined(dir, file)?;
    let mut entry = recognise(&path)?;
    entry.shift_insert(0, "file_name".into(), file.into());
    add(dir, name, entry)?;
    one(dir, name)
}

/// One dataset, with all of its rows looked at.
pub(super) fn one(dir: &Path, name: &str) -> Result<DatasetInfo> {
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    Ok(describe(&registry, entry, None))
}

/// Puts an entry into `dataset_info.json` under a name that is free.
pub(crate) fn add(dir: &Path, name: &str, entry: Row) -> Result<()> {
    change(dir, |entries| {
        if entries.contains_key(name) {
            return Err(taken(name));
        }
        entries.insert(name.into(), Value::Object(entry));
        Ok(())
    })
}

pub(crate) fn taken(name: &str) -> Error {
    Problem::new(
        "dataset_taken",
        format!("There already is a dataset {name:?}."),
        format!("已有名为“{name}”的数据集。"),
    )
    .hint("Choose another name, or delete that dataset first.", "请换一个名字，或先删除该数据集。")
    .field("name")
    .into()
}

/// A file that no `dataset_info.json` names, as a dataset by itself: its name, and a registry that knows it.
pub fn one_file(path: &Path) -> Result<(Registry, String)> {
    let mut entry = recognise(path)?;
    let (dir, file) = (path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")), path.file_name());
    let file = file.unwrap_or_default().to_string_lossy().into_owned();
    entry.shift_insert(0, "file_name".into(), file.clone().into());
    let registry = Registry::of(dir, info::Entry::parse(&file, &Value::Object(entry)));
    Ok((registry, file))
}

/// Takes the dataset out of `dataset_info.json`, and deletes what it alone uses: its file if that stands in the dataset
/// folder itself, and what was downloaded for it.
pub fn forget(dir: &Path, name: &str) -> Result<()> {
    let registry = Registry::open(dir)?;
    let source = match registry.entries().iter().find(|entry| entry.name == name) {
        Some(entry) => entry.source.clone(),
        None => return registry.entry(name).map(|_| ()),
    };
    change(dir, |entries| {
        entries.shift_remove(name);
        Ok(())
    })?;
    if let Source::Hub(source) = &source {
        return hub::forget(dir, source, Registry::open(dir)?.entries());
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

/// What is known of a dataset: its rows are counted, the first `checked` of them (all, if `None`) are looked at.
fn describe(registry: &Registry, entry: &info::Entry, checked: Option<usize>) -> DatasetInfo {
    let file = match &entry.source {
        Source::File(file) | Source::Remote(file) => file.clone(),
        Source::Hub(source) => source.shown(),
    };
    let kind = entry.format().map_or(Kind::Instructions, |format| format.kind(entry));
    let mut described = DatasetInfo {
        name: entry.name.clone(),
        file,
        formatting: entry.formatting.clone(),
        kind: kind.name().into(),
        problem: entry.problem.clone(),
        ..DatasetInfo::default()
    };
    if described.problem.is_none() {
        described.problem = measure(registry, entry, checked, &mut described).err().map(Error::into_problem);
    }
    described
}

fn measure(registry: &Registry, entry: &info::Entry, checked: Option<usize>, found: &mut DatasetInfo) -> Result<()> {
    for file in registry.files(entry)? {
        found.bytes += fs::metadata(&file).map_err(Error::io(&file))?.len();
        found.rows += reader::count(&file)?;
    }
    if found.rows == 0 {
        let name = &entry.name;
        let problem =
            Problem::new("dataset_empty", format!("Dataset {name} has no rows."), format!("数据集 {name} 没有数据。"));
        return Err(problem.hint("Add rows to its file.", "请为其文件添加数据。").into());
    }
    load::examples(registry, entry, checked, &mut |_, example| {
        example.map_err(Error::Problem)?;
        Ok(())
    })
}

/// The `dataset_info.json` entry, without the file, of the data in `path`: that of the first row that a format knows.
pub(super) fn recognise(path: &Path) -> Result<Row> {
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut first, mut found, mut fault) = (None, None, None);
    reader::read(path, &mut |row, value| {
        match value {
            Err(problem) => fault = fault.take().or(Some(at_row(*problem, &shown, row + 1))),
            Ok(value) => {
                let object = value.as_object();
                found = object.and_then(|object| FORMATS.iter().find_map(|format| format.recognise(object)));
                if first.is_none() {
                    first = Some(object.map_or_else(
                        || value.to_string().chars().take(40).collect(),
                        |row| row.keys().take(20).cloned().collect::<Vec<_>>().join(", "),
                    ));
                }
            }
        }
        Ok(if found.is_some() || row >= 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(entry) = found {
        return Ok(entry);
    }
    if let (None, Some(fault)) = (&first, fault) {
        return Err(fault.field("file").into());
    }
    let problem = match first {
        None => Problem::new("dataset_empty", format!("{shown} has no rows."), format!("{shown} 没有数据。")),
        Some(columns) => Problem::new(
            "dataset_unknown",
            format!("The rows of {shown} are of no known format; the first has: {columns}."),
            format!("无法识别 {shown} 的格式；第一行包含：{columns}。"),
        ),
    };
    Err(problem
        .hint(
            "Name the columns instruction and output, or conversations, messages, or text.",
            "请使用列名 instruction 与 output，或 conversations、messages、text。",
        )
        .field("file")
        .into())
}

/// Changes `dataset_info.json` under a lock and in one piece: written beside, flushed to the disk, renamed.
fn change(dir: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> Result<()>) -> Result<()> {
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
pub(crate) fn check_name(name: &str) -> Result<()> {
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

/// The value with long texts cut, so that a preview stays small.
fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(cut_text(text)),
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(row) => row.into_iter().map(|(key, value)| (key, shortened(value))).collect(),
        other => other,
    }
}

fn cut(message: Message) -> Message {
    Message { content: cut_text(message.content), ..message }
}

fn cut_text(text: String) -> String {
    if text.len() <= MAX_SHOWN {
        return text;
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_SHOWN)])
}
