//! What the studio asks about datasets: the list, some rows, which columns there are; and their registration.

mod mapping;
mod register;

pub use mapping::columns;
pub(crate) use register::{add, check_name, recognise, taken};
pub use register::{forget, one_file, register};
pub(super) use {mapping::put as put_mapping, register::change};

use super::example::at_row;
use super::walk::{self, walk};
use super::{Kind, Registry, Source, edit, info, load, reader};
use crate::{Error, Result};
use api::Problem;
use api::data::{DatasetInfo, Message, Preview, PreviewRow, RowsWanted};
use serde_json::{Map, Value};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// At most this many rows at once.
pub const MAX_ROWS: u64 = 200;
/// Longer texts are shown cut; of a row that is asked for alone, those longer than [`MAX_ALONE`].
const MAX_SHOWN: usize = 20_000;
const MAX_ALONE: usize = 4 << 20;
/// How far into a file a fault of a row is looked for when it is listed.
const CHECKED_ROWS: u64 = 100;

/// Every dataset of a folder, each with its problem if it has one.
pub fn list(dir: &Path) -> Result<Vec<DatasetInfo>> {
    let registry = Registry::open(dir)?;
    Ok(registry.entries().iter().map(|entry| describe(&registry, entry, Some(CHECKED_ROWS))).collect())
}

/// One dataset as [`list`] gives it; of its rows the first `checked` are looked at, or all.
pub fn one(dir: &Path, name: &str, checked: Option<u64>) -> Result<DatasetInfo> {
    let registry = Registry::open(dir)?;
    Ok(describe(&registry, registry.entry(name)?, checked))
}

/// A dataset with all its rows looked at: its first problem is one of the file or of a row.
pub fn looked_through(registry: &Registry, name: &str) -> Result<DatasetInfo> {
    Ok(describe(registry, registry.entry(name)?, None))
}

/// The rows wanted, as they stand and as the trainer reads them. Of a row that isn't JSON, `raw` is its text.
pub fn rows(dir: &Path, name: &str, wanted: &RowsWanted) -> Result<Preview> {
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    let format = entry.format()?;
    let end = wanted.offset.saturating_add(wanted.limit.min(MAX_ROWS));
    let most = if wanted.limit == 1 { MAX_ALONE } else { MAX_SHOWN };
    let search = wanted.search.to_lowercase();
    let all = search.is_empty() && !wanted.faulty;
    let (mut rows, mut matching, mut next, mut more) = (Vec::new(), 0, 0, false);
    let read = walk(&registry, entry, &mut |index, found| {
        next = index + 1;
        if all && matching < wanted.offset {
            matching += 1;
            return Ok(ControlFlow::Continue(()));
        }
        let example = walk::example(format, entry, &found.value);
        let raw = found.value.unwrap_or_else(|_| text_of(found.text));
        if (wanted.faulty && example.is_ok()) || !holds(&raw, &search) {
            return Ok(ControlFlow::Continue(()));
        }
        more = matching >= end;
        if matching >= wanted.offset && !more {
            let (messages, problem) = match example {
                Ok(example) => (example.shown().into_iter().map(|m| cut(m, most)).collect(), None),
                Err(problem) => (Vec::new(), Some(at_row(*problem, name, index + 1))),
            };
            rows.push(PreviewRow { index, raw: shortened(raw, most), messages, problem });
        }
        matching += 1;
        Ok(if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    // The rows before a fault of the file are shown; the dataset carries the problem.
    if next == 0 {
        read?;
    }
    let dataset = describe(&registry, entry, Some(CHECKED_ROWS));
    Ok(Preview { dataset, offset: wanted.offset, rows, more })
}

/// `shown` with the texts of `row` in the place of those that a preview had cut; `None` if such a text was changed.
pub(super) fn uncut(shown: Value, row: &Value) -> Option<Value> {
    Some(match (shown, row) {
        (Value::String(shown), Value::String(text)) => {
            let is_cut = |most: usize| text.len() > most && shown == cut_text(text.clone(), most);
            if is_cut(MAX_SHOWN) || is_cut(MAX_ALONE) {
                return Some(Value::String(text.clone()));
            }
            let known = |most: usize| text.len() > most && shown.len() >= most && shown.ends_with(CUT);
            if (known(MAX_SHOWN) || known(MAX_ALONE)) && !text.ends_with(CUT) {
                return None;
            }
            Value::String(shown)
        }
        (Value::Array(shown), Value::Array(items)) => {
            let pairs = shown.into_iter().enumerate();
            pairs.map(|(i, shown)| uncut(shown, items.get(i).unwrap_or(&Value::Null))).collect::<Option<_>>()?
        }
        (Value::Object(shown), Value::Object(row)) => {
            let pair = |(key, shown): (String, Value)| {
                let value = uncut(shown, row.get(&key).unwrap_or(&Value::Null))?;
                Some((key, value))
            };
            Value::Object(shown.into_iter().map(pair).collect::<Option<Map<_, _>>>()?)
        }
        (shown, _) => shown,
    })
}

/// What is known of a dataset: its rows are counted, the first `checked` of them (all, if `None`) are looked at.
fn describe(registry: &Registry, entry: &info::Entry, checked: Option<u64>) -> DatasetInfo {
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
        editable: edit::own_file(registry, entry).is_ok(),
        undoable: entry.changed,
        problem: entry.problem.clone(),
        ..DatasetInfo::default()
    };
    if described.problem.is_none() {
        described.problem = measure(registry, entry, checked, &mut described).err().map(Error::into_problem);
    }
    described
}

fn measure(registry: &Registry, entry: &info::Entry, checked: Option<u64>, found: &mut DatasetInfo) -> Result<()> {
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
    if let Some(problem) = mapping::unmapped(registry, entry)? {
        return Err(problem.into());
    }
    load::examples(registry, entry, checked.unwrap_or(u64::MAX), &mut |_, example| {
        example.map_err(Error::Problem)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn text_of(text: Option<&[u8]>) -> Value {
    text.map_or(Value::Null, |text| String::from_utf8_lossy(text).into())
}

/// Whether a value holds the text, which is in lower case.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        _ if text.is_empty() => true,
        Value::String(found) => found.to_lowercase().contains(text),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(row) => row.values().any(|value| holds(value, text)),
        other => other.to_string().contains(text),
    }
}

/// The value with texts of more than `most` bytes cut, so that a preview stays small.
fn shortened(value: Value, most: usize) -> Value {
    match value {
        Value::String(text) => Value::String(cut_text(text, most)),
        Value::Array(items) => items.into_iter().map(|item| shortened(item, most)).collect(),
        Value::Object(row) => row.into_iter().map(|(key, value)| (key, shortened(value, most))).collect(),
        other => other,
    }
}

fn cut(message: Message, most: usize) -> Message {
    Message { content: cut_text(message.content, most), ..message }
}

const CUT: char = '…';

fn cut_text(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(most)])
}
