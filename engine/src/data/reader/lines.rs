//! A row a line: JSON Lines and plain text.

use super::{Give, Input, MAX_ROW, Raw, Row, json, row_not_json, row_too_long};
use crate::Result;
use api::Problem;
use serde_json::Value;

/// JSON Lines; a file that begins with `[` is read as one array.
pub fn read_json(mut input: Input, give: &mut Give) -> Result<()> {
    if json::is_array(&mut input)? {
        return json::read(input, give);
    }
    each_line(&mut input, &mut |number, line| {
        give(match line {
            Line::Blank => return Ok(true),
            Line::Long => Raw { text: None, value: Err(row_too_long(number)) },
            Line::Bytes(line) => {
                let value = serde_json::from_slice(line);
                Raw { text: Some(line), value: value.map_err(|e| row_not_json(number, e.column(), &e.to_string())) }
            }
        })
    })
}

/// Plain text; blank lines are no rows.
pub fn read_text(mut input: Input, give: &mut Give) -> Result<()> {
    each_line(&mut input, &mut |number, line| {
        give(match line {
            Line::Blank => return Ok(true),
            Line::Long => Raw { text: None, value: Err(row_too_long(number)) },
            Line::Bytes(line) => match std::str::from_utf8(line) {
                Ok(text) => {
                    let row = Row::from_iter([("text".to_string(), Value::from(text))]);
                    Raw { text: None, value: Ok(Value::Object(row)) }
                }
                Err(e) => Raw { text: Some(line), value: Err(not_utf8(number, e.valid_up_to() + 1)) },
            },
        })
    })
}

/// Rows of JSON Lines.
pub fn count(mut input: Input) -> Result<u64> {
    if json::is_array(&mut input)? {
        return json::count(input);
    }
    let mut rows = 0;
    each_line(&mut input, &mut |_, line| {
        rows += u64::from(!matches!(line, Line::Blank));
        Ok(true)
    })?;
    Ok(rows)
}

enum Line<'a> {
    /// Nothing but white space.
    Blank,
    /// Of more than [`MAX_ROW`] bytes.
    Long,
    /// Without its end.
    Bytes(&'a [u8]),
}

/// Calls `each` with every line and its number, from 1.
fn each_line(input: &mut Input, each: &mut dyn FnMut(usize, Line) -> Result<bool>) -> Result<()> {
    let (mut held, mut number, mut length) = (Vec::new(), 0, 0);
    loop {
        let bytes = input.fill()?;
        let end = memchr::memchr(b'\n', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let (taken, last) = (part.len() + usize::from(end.is_some()), bytes.is_empty());
        length += part.len();
        let whole = held.is_empty() && end.is_some();
        if !whole && length <= MAX_ROW {
            held.extend_from_slice(part);
        }
        if end.is_some() || (last && length > 0) {
            number += 1;
            let line = match length > MAX_ROW {
                true => Line::Long,
                false => line_of(if whole { part } else { &held }),
            };
            if !each(number, line)? {
                return Ok(());
            }
            held.clear();
            // A row of many megabytes is seldom followed by another.
            held.shrink_to(1 << 20);
            length = 0;
        }
        if last {
            return Ok(());
        }
        input.consume(taken);
    }
}

fn line_of(bytes: &[u8]) -> Line<'_> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) { Line::Blank } else { Line::Bytes(bytes) }
}

fn not_utf8(line: usize, column: usize) -> Box<Problem> {
    Box::new(
        Problem::new(
            "row_not_utf8",
            format!("it is not UTF-8 text: line {line}, column {column} of the file."),
            format!("不是 UTF-8 文本：文件第 {line} 行第 {column} 列。"),
        )
        .hint("Save the file again with the encoding UTF-8.", "请以 UTF-8 编码重新保存该文件。"),
    )
}
