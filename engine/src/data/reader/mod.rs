//! Rows of data files, one at a time: `.json` (an array, or objects one after the other), `.jsonl`, `.csv` and `.tsv`,
//! `.txt` (a row a line), each also gzipped, `.parquet` and `.arrow`. A file is never held in memory as a whole.
//!
//! Text is UTF-8; UTF-16 and GBK are recognised and converted.

mod columnar;
mod csv;
mod input;
mod json;
mod lines;

use super::{Row, example::fault};
use crate::{Error, Result};
use api::Problem;
use input::Input;
use serde_json::Value;
use std::{ops::ControlFlow, path::Path};

/// A row with more bytes than this is refused.
pub const MAX_ROW: usize = 64 << 20;

/// What the caller does with a row: its 0-based number within the file, and the row or what is wrong with it alone.
/// `Break` ends the reading.
pub type Each<'a> = dyn FnMut(u64, Result<Value, Box<Problem>>) -> Result<ControlFlow<()>> + 'a;

/// As [`Each`], with the row's own text.
pub type EachRaw<'a> = dyn FnMut(u64, Raw) -> Result<ControlFlow<()>> + 'a;

/// A row as it stands in its file.
pub struct Raw<'a> {
    /// Its text: of rows of JSON and of faulty rows, unless they have more than [`MAX_ROW`] bytes.
    pub text: Option<&'a [u8]>,
    pub value: Result<Value, Box<Problem>>,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    JsonLines,
    Text,
    Csv,
    /// Separated by tabs.
    Tsv,
    Parquet,
    Arrow,
}

/// File extensions that are read.
const KINDS: [(&str, Kind); 9] = [
    ("json", Kind::Json),
    ("jsonl", Kind::JsonLines),
    ("ndjson", Kind::JsonLines),
    ("txt", Kind::Text),
    ("csv", Kind::Csv),
    ("tsv", Kind::Tsv),
    ("parquet", Kind::Parquet),
    ("arrow", Kind::Arrow),
    ("feather", Kind::Arrow),
];

/// How a file of this name is read, and whether it is gzipped; `None` for a kind that isn't read.
pub fn kind(path: &Path) -> Option<(Kind, bool)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, zipped) = name.strip_suffix(".gz").map_or((name.as_str(), false), |name| (name, true));
    let (_, extension) = name.rsplit_once('.')?;
    let (_, kind) = KINDS.into_iter().find(|(known, _)| *known == extension)?;
    // Those two are compressed inside.
    (!zipped || !matches!(kind, Kind::Parquet | Kind::Arrow)).then_some((kind, zipped))
}

/// The extensions for sentences.
pub fn known() -> String {
    KINDS.map(|(extension, _)| format!(".{extension}")).join(", ")
}

/// Calls `each` with every row of `path`. A fault of one row goes to `each`; a fault of the file is a problem with line and
/// column (from 1; the column counts bytes); an error of `each` comes back as it is.
pub fn read(path: &Path, each: &mut Each) -> Result<()> {
    read_raw(path, &mut |row, raw| each(row, raw.value))
}

/// As [`read`], with the text of the rows.
pub fn read_raw(path: &Path, each: &mut EachRaw) -> Result<()> {
    let (kind, zipped) = kind(path).ok_or_else(|| unknown(path))?;
    let mut row = 0;
    // Numbers the rows; false when the reading shall end.
    let mut give = |raw: Raw| -> Result<bool> {
        row += 1;
        Ok(each(row - 1, raw)?.is_continue())
    };
    let open = || Input::open(path, zipped);
    match kind {
        Kind::Json => json::read(open()?, &mut give),
        Kind::JsonLines => lines::read_json(open()?, &mut give),
        Kind::Text => lines::read_text(open()?, &mut give),
        Kind::Csv => csv::read(open()?, None, &mut give),
        Kind::Tsv => csv::read(open()?, Some(b'\t'), &mut give),
        Kind::Parquet => columnar::read_parquet(path, &mut give),
        Kind::Arrow => columnar::read_arrow(path, &mut give),
    }
}

/// The number of rows of `path`, without a look into them; faults of the file as in [`read`].
pub fn count(path: &Path) -> Result<u64> {
    let (kind, zipped) = kind(path).ok_or_else(|| unknown(path))?;
    let open = || Input::open(path, zipped);
    match kind {
        Kind::Json => json::count(open()?),
        Kind::JsonLines => lines::count(open()?),
        Kind::Parquet => columnar::count_parquet(path),
        Kind::Arrow => columnar::count_arrow(path),
        Kind::Text | Kind::Csv | Kind::Tsv => {
            let mut rows = 0;
            read(path, &mut |_, _| {
                rows += 1;
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(rows)
        }
    }
}

/// What a kind of file gives its rows to; false when the reading shall end.
type Give<'a> = dyn FnMut(Raw) -> Result<bool> + 'a;

/// Whether the rows of a `.json` or `.jsonl` file stand in one array.
pub fn is_array(path: &Path) -> Result<bool> {
    match kind(path) {
        Some((Kind::Json | Kind::JsonLines, zipped)) => json::is_array(&mut Input::open(path, zipped)?),
        _ => Ok(false),
    }
}

/// A row as an object, or what is wrong with it.
pub fn object(value: Value) -> Result<Row, Box<Problem>> {
    match value {
        Value::Object(row) => Ok(row),
        other => {
            let found = match other {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::String(_) => "a text",
                _ => "a list",
            };
            Err(Box::new(
                Problem::new(
                    "row_not_object",
                    format!("the row is {found}, not an object with named columns."),
                    "该行不是带列名的对象。",
                )
                .hint("Write each row as {\"column\": value, …}.", "请把每一行写成 {\"列名\": 值, …}。"),
            ))
        }
    }
}

/// A small file's text as JSON.
pub fn from_json<T: serde::de::DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, Problem> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    serde_json::from_slice(text).map_err(|e| not_json(path, e.line(), e.column(), &e.to_string()))
}

/// The problem of a file that is not JSON.
fn not_json(path: &Path, line: usize, column: usize, detail: &str) -> Problem {
    let shown = shown(path);
    // serde_json repeats the place at the end of its message.
    let detail = detail.split(" at line ").next().unwrap_or(detail);
    Problem::new(
        "dataset_not_json",
        format!("{shown} is not valid JSON: line {line}, column {column}: {detail}."),
        format!("{shown} 不是有效的 JSON：第 {line} 行第 {column} 列：{detail}。"),
    )
    .hint("Open the file at that place and mend it, then try again.", "请打开文件，修正该处后重试。")
}

/// The problem of a row that is not JSON, at a place of the file.
fn row_not_json(line: usize, column: usize, detail: &str) -> Box<Problem> {
    let detail = detail.split(" at line ").next().unwrap_or(detail);
    fault(
        "row_not_json",
        format!("it is not valid JSON: line {line}, column {column} of the file: {detail}."),
        format!("不是有效的 JSON：文件第 {line} 行第 {column} 列：{detail}。"),
    )
}

/// The problem of a row with more than [`MAX_ROW`] bytes that begins at a line.
fn row_too_long(line: usize) -> Box<Problem> {
    let mib = MAX_ROW >> 20;
    Box::new(
        Problem::new(
            "row_too_long",
            format!("it has more than {mib} MiB (from line {line} of the file on)."),
            format!("该行超过 {mib} MiB（从文件第 {line} 行开始）。"),
        )
        .hint("Split the text into shorter rows.", "请把文本拆成更短的行。"),
    )
}

fn unknown(path: &Path) -> Error {
    let (shown, known) = (shown(path), known());
    Problem::new(
        "dataset_kind",
        format!("{shown} is of no kind that is read: {known}."),
        format!("无法读取 {shown} 这类文件；可读取：{known}。"),
    )
    .hint("Save the data as .json, .jsonl or .csv.", "请将数据另存为 .json、.jsonl 或 .csv。")
    .into()
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
