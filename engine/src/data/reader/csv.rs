//! CSV (RFC 4180): the first line names the columns, and each record is a row of texts; an empty cell is null.

use super::{Give, Input, MAX_ROW, Raw, Row, fault, input, shown};
use crate::{Error, Result};
use api::Problem;
use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::Value;
use std::{
    collections::HashSet,
    io::{self, Read},
    path::Path,
};

/// More columns than any table of texts has.
const MAX_COLUMNS: usize = 1000;
/// What may stand between cells where the name of the file doesn't say.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Gives every record; `separator` is guessed from the first line where it isn't known.
pub fn read(mut text: Input, separator: Option<u8>, give: &mut Give) -> Result<()> {
    let path = text.path().to_owned();
    let separator = match separator {
        Some(separator) => separator,
        None => guess(text.fill()?),
    };
    let bounded = Bounded { text, left: MAX_ROW };
    let mut reader = ReaderBuilder::new().delimiter(separator).flexible(true).has_headers(false).from_reader(bounded);
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| {
        reader.get_mut().left = MAX_ROW;
        let more = reader.read_byte_record(record).map_err(|e| problem(&path, e))?;
        Ok::<_, Error>(more.then(|| record.position().map_or(0, csv::Position::line)))
    };
    if next(&mut record)?.is_none() {
        return Ok(());
    }
    let columns = header(&path, &record)?;
    while let Some(line) = next(&mut record)? {
        let value = row(&columns, &record, line);
        let text = value.is_err().then(|| written(&record, separator));
        if !give(Raw { text: text.as_deref(), value })? {
            return Ok(());
        }
    }
    Ok(())
}

/// The separator that the first line holds most of.
fn guess(start: &[u8]) -> u8 {
    let line = start.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = |separator: &u8| line.iter().filter(|b| *b == separator).count();
    // Of equal numbers the first wins.
    SEPARATORS.into_iter().rev().max_by_key(|s| count(s)).unwrap_or(b',')
}

fn header(path: &Path, record: &ByteRecord) -> Result<Vec<String>> {
    let shown = shown(path);
    if record.len() > MAX_COLUMNS {
        let n = record.len();
        return Err(Problem::new(
            "csv_columns",
            format!("{shown} has {n} columns, {MAX_COLUMNS} at most are read."),
            format!("{shown} 有 {n} 列，最多读取 {MAX_COLUMNS} 列。"),
        )
        .hint("Check that its first line names the columns.", "请检查第一行是否为列名。")
        .into());
    }
    let columns: Vec<String> = record.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_string()).collect();
    let mut seen = HashSet::new();
    if let Some(twice) = columns.iter().find(|name| !name.is_empty() && !seen.insert(name.as_str())) {
        return Err(Problem::new(
            "csv_columns",
            format!("{shown} has two columns with the name {twice:?}."),
            format!("{shown} 有两列同名：“{twice}”。"),
        )
        .hint("Name each column once in the first line.", "请在第一行为每列使用不同的名称。")
        .into());
    }
    Ok(columns)
}

fn row(columns: &[String], record: &ByteRecord, line: u64) -> Result<Value, Box<Problem>> {
    if record.len() != columns.len() {
        let (found, wanted) = (record.len(), columns.len());
        return Err(fault(
            "csv_cells",
            format!("it has {found} cells, the first line names {wanted} columns (line {line} of the file)."),
            format!("该行有 {found} 个单元格，而第一行有 {wanted} 列（文件第 {line} 行）。"),
        ));
    }
    let mut made = Row::new();
    for (name, cell) in columns.iter().zip(record).filter(|(name, _)| !name.is_empty()) {
        let text = std::str::from_utf8(cell).map_err(|_| {
            fault(
                "row_not_utf8",
                format!("column {name:?} is not UTF-8 text (line {line} of the file)."),
                format!("列“{name}”不是 UTF-8 文本（文件第 {line} 行）。"),
            )
        })?;
        made.insert(name.clone(), if text.is_empty() { Value::Null } else { Value::from(text) });
    }
    Ok(Value::Object(made))
}

/// The text of a record, without a line feed after it.
fn written(record: &ByteRecord, separator: u8) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().delimiter(separator).flexible(true).from_writer(Vec::new());
    // Memory takes everything.
    let _ = writer.write_byte_record(record);
    let mut text = writer.into_inner().unwrap_or_default();
    text.pop_if(|last| *last == b'\n');
    text
}

fn problem(path: &Path, error: csv::Error) -> Error {
    match error.into_kind() {
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let (shown, mib) = (shown(path), MAX_ROW >> 20);
            Problem::new(
                "row_too_long",
                format!("{shown} has a row of more than {mib} MiB."),
                format!("{shown} 中有超过 {mib} MiB 的行。"),
            )
            .hint("Look for a quotation mark that isn't closed.", "请检查是否有未闭合的引号。")
            .into()
        }
        ErrorKind::Io(error) => input::problem(path, error),
        other => Error::Internal(format!("{}: {other:?}", path.display())),
    }
}

/// Ends a record that grows without end.
struct Bounded {
    text: Input,
    left: usize,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.text.read(buffer)?;
        self.left = self.left.checked_sub(n).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
