//! Rows of data files, one at a time: `.json` (an array, or objects one after the other), `.jsonl`, `.txt` (a row a line).
//! A file is never held in memory as a whole.

use super::Row;
use crate::{Error, Result};
use api::Problem;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

/// A row with more bytes than this is refused.
pub const MAX_ROW: u64 = 64 << 20;

/// What the caller does with a row: 0-based number within the file, and the row. `Break` ends the reading.
pub type Each<'a> = dyn FnMut(u64, Value) -> Result<ControlFlow<()>> + 'a;

/// The extension that says how a file is read, or `None` for a kind that isn't read.
pub fn extension(path: &Path) -> Option<&'static str> {
    let found = path.extension()?.to_str()?.to_ascii_lowercase();
    ["json", "jsonl", "txt"].into_iter().find(|known| *known == found)
}

/// Calls `each` with every row of `path`. A fault of the file is a problem with line and column (from 1; the column counts
/// bytes); an error of `each` comes back as it is.
pub fn read(path: &Path, each: &mut Each) -> Result<()> {
    let (kind, reader) = open(path)?;
    match kind {
        "txt" => text_lines(path, reader, each),
        "jsonl" => json_lines(path, reader, each),
        _ => json_values(path, reader, each),
    }
}

/// The number of rows of `path`, without looking into them; faults as in [`read`].
pub fn count(path: &Path) -> Result<u64> {
    let (kind, mut reader) = open(path)?;
    let mut rows = 0;
    if kind == "txt" {
        text_lines(path, reader, &mut |_, _| {
            rows += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        return Ok(rows);
    }
    if kind == "json" && first_byte(path, &mut reader)? == Some(b'[') {
        let counted = Rc::clone(&reader.get_ref().since_row);
        let mut json = serde_json::Deserializer::from_reader(reader);
        struct Rows<'a>(&'a mut u64, Rc<Cell<u64>>);
        impl<'de> Visitor<'de> for Rows<'_> {
            type Value = ();
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an array of rows")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    *self.0 += 1;
                    self.1.set(0);
                }
                Ok(())
            }
        }
        json.deserialize_seq(Rows(&mut rows, counted)).and_then(|()| json.end()).map_err(|e| json_problem(path, &e))?;
        return Ok(rows);
    }
    read(path, &mut |_, _| {
        rows += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

/// The problem of a file that is not JSON.
pub fn not_json(path: &Path, line: usize, column: usize, detail: &str) -> Problem {
    let shown = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    // serde_json repeats the place at the end of its message.
    let detail = detail.split(" at line ").next().unwrap_or(detail);
    Problem::new(
        "dataset_not_json",
        format!("{shown} is not valid JSON: line {line}, column {column}: {detail}."),
        format!("{shown} 不是有效的 JSON：第 {line} 行第 {column} 列：{detail}。"),
    )
    .hint("Open the file at that place and mend it, then try again.", "请打开文件，修正该处后重试。")
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

/// Bytes of a file, with the number taken since the last row, so that one endless row is refused before memory is full.
struct Bounded {
    file: File,
    since_row: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.since_row.set(self.since_row.get() + n as u64);
        if self.since_row.get() > MAX_ROW + (1 << 20) {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "row too long"));
        }
        Ok(n)
    }
}

fn open(path: &Path) -> Result<(&'static str, BufReader<Bounded>)> {
    let shown = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let kind = extension(path).ok_or_else(|| {
        Problem::new(
            "dataset_kind",
            format!("{shown} is not a .json, .jsonl or .txt file; other kinds aren't read yet."),
            format!("{shown} 不是 .json、.jsonl 或 .txt 文件；暂不支持其他类型。"),
        )
        .hint("Save the data as .json or .jsonl.", "请将数据另存为 .json 或 .jsonl。")
    })?;
    let file = File::open(path).map_err(Error::io(path))?;
    let mut reader = BufReader::with_capacity(1 << 18, Bounded { file, since_row: Rc::new(Cell::new(0)) });
    let start = reader.fill_buf().map_err(Error::io(path))?;
    if start.starts_with(&[0xFF, 0xFE]) || start.starts_with(&[0xFE, 0xFF]) {
        return Err(not_utf8(path, 1));
    }
    if start.starts_with(b"\xEF\xBB\xBF") {
        reader.consume(3);
    }
    Ok((kind, reader))
}

fn not_utf8(path: &Path, line: u64) -> Error {
    let shown = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Problem::new(
        "dataset_not_utf8",
        format!("{shown} is not UTF-8 text (line {line})."),
        format!("{shown} 不是 UTF-8 文本（第 {line} 行）。"),
    )
    .hint("Save it again with the encoding UTF-8.", "请以 UTF-8 编码重新保存。")
    .into()
}

fn too_long(path: &Path) -> Error {
    let shown = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let mib = MAX_ROW >> 20;
    Problem::new(
        "row_too_long",
        format!("{shown} has a row of more than {mib} MiB."),
        format!("{shown} 中有超过 {mib} MiB 的行。"),
    )
    .hint("Split the text into shorter rows.", "请把文本拆成更短的行。")
    .into()
}

fn json_problem(path: &Path, error: &serde_json::Error) -> Error {
    match error.io_error_kind() {
        Some(io::ErrorKind::FileTooLarge) => too_long(path),
        Some(kind) => Error::io(path)(kind.into()),
        None => not_json(path, error.line(), error.column(), &error.to_string()).into(),
    }
}

/// The first byte that isn't white space, left in the reader. White space before it counts as part of the first row.
fn first_byte(path: &Path, reader: &mut BufReader<Bounded>) -> Result<Option<u8>> {
    // Only looks: the JSON parser must see the white space, for its line numbers.
    let start = reader.fill_buf().map_err(Error::io(path))?;
    Ok(start.iter().copied().find(|b| !b.is_ascii_whitespace()))
}

/// One line, without its end, up to [`MAX_ROW`] bytes; `None` at the end of the file.
fn next_line(path: &Path, reader: &mut BufReader<Bounded>, line: &mut Vec<u8>) -> Result<Option<()>> {
    reader.get_ref().since_row.set(0);
    line.clear();
    let n = reader.by_ref().take(MAX_ROW + 1).read_until(b'\n', line).map_err(Error::io(path))?;
    if n as u64 > MAX_ROW {
        return Err(too_long(path));
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok((n > 0).then_some(()))
}

fn text_lines(path: &Path, mut reader: BufReader<Bounded>, each: &mut Each) -> Result<()> {
    let (mut line, mut number, mut row) = (Vec::new(), 0u64, 0);
    while next_line(path, &mut reader, &mut line)?.is_some() {
        number += 1;
        let text = std::str::from_utf8(&line).map_err(|_| not_utf8(path, number))?;
        if text.trim().is_empty() {
            continue;
        }
        let value = Value::Object(Row::from_iter([("text".to_string(), Value::from(text))]));
        if each(row, value)?.is_break() {
            return Ok(());
        }
        row += 1;
    }
    Ok(())
}

fn json_lines(path: &Path, mut reader: BufReader<Bounded>, each: &mut Each) -> Result<()> {
    if first_byte(path, &mut reader)? == Some(b'[') {
        return json_values(path, reader, each);
    }
    let (mut line, mut number, mut row) = (Vec::new(), 0usize, 0);
    while next_line(path, &mut reader, &mut line)?.is_some() {
        number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = serde_json::from_slice(&line).map_err(|e| not_json(path, number, e.column(), &e.to_string()))?;
        if each(row, value)?.is_break() {
            return Ok(());
        }
        row += 1;
    }
    Ok(())
}

fn json_values(path: &Path, mut reader: BufReader<Bounded>, each: &mut Each) -> Result<()> {
    let since_row = Rc::clone(&reader.get_ref().since_row);
    let mut stopped = None;
    let mut row = 0;
    // Gives every value to `each`; false when the reading shall end.
    let mut give = |value: Value| {
        since_row.set(0);
        let number = row;
        row += 1;
        match each(number, value) {
            Ok(ControlFlow::Continue(())) => true,
            Ok(ControlFlow::Break(())) => {
                stopped = Some(Ok(()));
                false
            }
            Err(e) => {
                stopped = Some(Err(e));
                false
            }
        }
    };
    let result = match first_byte(path, &mut reader)? {
        None => return Ok(()),
        Some(b'[') => {
            let mut json = serde_json::Deserializer::from_reader(reader);
            Elements(&mut give).deserialize(&mut json).and_then(|()| json.end())
        }
        Some(_) => {
            let mut values = serde_json::Deserializer::from_reader(reader).into_iter::<Value>();
            loop {
                match values.next() {
                    None => break Ok(()),
                    Some(Err(e)) => break Err(e),
                    Some(Ok(value)) => {
                        if !give(value) {
                            break Ok(());
                        }
                    }
                }
            }
        }
    };
    match stopped {
        Some(result) => result,
        None => result.map_err(|e| json_problem(path, &e)),
    }
}

/// Hands the elements of an array on, one at a time.
struct Elements<'a>(&'a mut dyn FnMut(Value) -> bool);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<Value>()? {
            if !(self.0)(value) {
                // The only way out of an array that isn't at its end; the caller knows why.
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rows(name: &str, bytes: &[u8]) -> Result<Vec<Value>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut found = Vec::new();
        read(&path, &mut |n, value| {
            assert_eq!(n as usize, found.len());
            found.push(value);
            Ok(ControlFlow::Continue(()))
        })?;
        assert_eq!(count(&path)?, found.len() as u64);
        Ok(found)
    }

    fn message(name: &str, bytes: &[u8]) -> String {
        let problem = rows(name, bytes).unwrap_err().into_problem();
        assert!(problem.zh.is_some() && !problem.hint.is_empty());
        problem.message
    }

    #[test]
    fn every_kind_of_file_gives_rows() {
        assert_eq!(rows("a.json", b"\xEF\xBB\xBF [{\"a\": 1}, {\"a\": 2}]\n").unwrap().len(), 2);
        assert_eq!(rows("a.json", b"{\"a\": 1}\n{\"a\": 2}").unwrap().len(), 2);
        assert_eq!(rows("a.jsonl", b"\xEF\xBB\xBF{\"a\": 1}\r\n\r\n{\"a\": 2}").unwrap().len(), 2);
        assert_eq!(rows("a.jsonl", b"[{\"a\": 1}]").unwrap().len(), 1);
        assert_eq!(rows("a.TXT", "one\n\n 二 \r\n".as_bytes()).unwrap()[1]["text"], " 二 ");
        assert!(rows("empty.json", b"").unwrap().is_empty());
    }

    #[test]
    fn faults_name_line_and_column() {
        assert!(message("a.json", b"[\n  {\"a\": 1},\n  {\"a\" 2}\n]").contains("line 3, column 8"));
        assert!(message("a.jsonl", b"{\"a\": 1}\n{\"a\": }\n").contains("line 2, column 7"));
        assert!(message("a.json", b"[{\"a\": 1}").contains("line 1, column 9"));
        assert!(message("a.json", b"hello").contains("line 1, column 1"));
        assert!(message("a.json", b"[{\"a\": \"\xFF\"}]").contains("line 1"));
        assert!(message("a.txt", b"fine\n\xC4\xE3\n").contains("line 2"));
        assert!(message("a.json", b"\xFF\xFE[\0]\0").contains("UTF-8"));
        assert!(message("a.csv", b"a,b").contains(".jsonl"));
    }

    #[test]
    fn the_caller_may_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "[1, 2, 3, oops").unwrap();
        let mut seen = 0;
        read(&path, &mut |_, _| {
            seen += 1;
            Ok(if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
        assert_eq!(seen, 2);
    }

    #[test]
    fn an_endless_row_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, start) in [("a.jsonl", "{\"a\":\""), ("a.json", "[{\"a\":\"")] {
            let path = dir.path().join(name);
            // Sparse: the file system makes the zeros.
            std::fs::write(&path, start).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(MAX_ROW + (3 << 20)).unwrap();
            let error = read(&path, &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap_err().into_problem();
            assert!(["row_too_long", "dataset_not_json"].contains(&error.code.as_str()), "{}", error.message);
        }
    }
}
