//! Through the rows of a dataset, over all of its files.

use super::{Example, Format, Registry, example, info, reader};
use crate::Result;
use api::Problem;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Rows that are worked on at once, on all cores, and about how many bytes they may have.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 16 << 20;

/// A row with its text; see [`reader::Raw`].
pub struct Row {
    /// From 0.
    pub index: u64,
    pub text: Option<Vec<u8>>,
    pub value: Result<Value, Box<Problem>>,
}

/// Calls `each` with every row of a dataset and its number, from 0.
pub fn walk(registry: &Registry, entry: &info::Entry, each: &mut reader::EachRaw) -> Result<()> {
    walk_files(&registry.files(entry)?, each)
}

/// The same over files, whose rows are counted on from one to the next.
pub fn walk_files(files: &[PathBuf], each: &mut reader::EachRaw) -> Result<()> {
    let (mut row, mut ended) = (0, false);
    for file in files {
        reader::read_raw(file, &mut |_, raw| {
            let flow = each(row, raw)?;
            (row, ended) = (row + 1, flow.is_break());
            Ok(flow)
        })?;
        if ended {
            break;
        }
    }
    Ok(())
}

/// Calls `each` with all rows, some hundred at a time.
pub fn in_batches(
    registry: &Registry,
    entry: &info::Entry,
    each: &mut dyn FnMut(Vec<Row>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (mut batch, mut bytes, mut flow) = (Vec::new(), 0, ControlFlow::Continue(()));
    walk(registry, entry, &mut |index, raw| {
        bytes += raw.text.map_or(0, <[u8]>::len);
        batch.push(Row { index, text: raw.text.map(<[u8]>::to_vec), value: raw.value });
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            flow = each(std::mem::take(&mut batch))?;
        }
        Ok(flow)
    })?;
    if flow.is_continue() && !batch.is_empty() {
        let _ = each(batch)?;
    }
    Ok(())
}

/// A row as the trainer reads it.
pub fn example(
    format: &dyn Format,
    entry: &info::Entry,
    value: &Result<Value, Box<Problem>>,
) -> Result<Example, Box<Problem>> {
    let of = |row: &super::Row| {
        let mut example = format.example(row, entry)?;
        if example.chosen.is_some() {
            example.margin = example::margin(row)?;
        }
        Ok(example)
    };
    match value {
        Ok(Value::Object(row)) => of(row),
        Ok(other) => reader::object(other.clone()).and_then(|row| of(&row)),
        Err(problem) => Err(problem.clone()),
    }
}

/// The text of a faulty row of a table as JSON, which keeps it on its line. What is no text keeps its bytes.
pub fn quoted(text: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(text) {
        Ok(text) => Value::from(text).to_string().into_bytes(),
        Err(_) => one_line(text),
    }
}

/// JSON on one line: it has no line feeds but between values.
pub fn one_line(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}
