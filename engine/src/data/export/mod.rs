//! A dataset as a file of another kind, row by row: its rows as they stand, or in the columns of a format.

mod table;

use super::example::at_row;
use super::reader::{self, Kind};
use super::walk::{self, Row, in_batches};
use super::{Format, Registry, format, info};
use crate::{Error, Result};
use api::Problem;
use api::data::FileType;
use rayon::prelude::*;
use serde_json::Value;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use table::{Columns, Csv, Table};

/// A dataset that can be written: whatever is wrong with its rows is told before.
pub struct Export {
    registry: Registry,
    entry: info::Entry,
    file_type: FileType,
    formatting: Option<&'static dyn Format>,
    /// Of a table.
    columns: Columns,
}

impl Export {
    /// Looks through the rows. One that the file can't hold (broken JSON in a table, tools in Alpaca's columns) is a
    /// problem; as JSON a faulty row goes along as it stands.
    pub fn begin(dir: &Path, name: &str, file_type: FileType, formatting: Option<&str>) -> Result<Self> {
        let registry = Registry::open(dir)?;
        let entry = registry.entry(name)?.clone();
        let formatting = formatting.map(format).transpose()?;
        let mut export = Self { registry, entry, file_type, formatting, columns: Columns::default() };
        let is_table = matches!(file_type, FileType::Csv | FileType::Parquet | FileType::Arrow);
        // Also a file that can't be read is told here.
        export.registry.files(&export.entry)?;
        if is_table || formatting.is_some() {
            let mut columns = Columns::default();
            export.values(&mut |values| {
                if is_table { columns.add(&values) } else { Ok(()) }
            })?;
            columns.check()?;
            export.columns = columns;
        }
        Ok(export)
    }

    /// Writes the file.
    pub fn write(&self, out: impl Write + Send) -> Result<()> {
        let out = BufWriter::with_capacity(1 << 16, out);
        match (self.file_type, self.formatting) {
            (FileType::Json, None) => self.write_texts(out, ["[\n  ", ",\n  ", "\n]\n", "[]\n"], false),
            (FileType::Jsonl, None) => self.write_texts(out, ["", "\n", "\n", ""], true),
            (FileType::Json, Some(_)) => self.write_json(out, ["[\n  ", ",\n  ", "\n]\n", "[]\n"]),
            (FileType::Jsonl, Some(_)) => self.write_json(out, ["", "\n", "\n", ""]),
            (FileType::Csv, _) => self.write_table(Csv::begin(out, &self.columns)?),
            (FileType::Parquet, _) => self.write_table(table::Parquet::begin(out, &self.columns)?),
            (FileType::Arrow, _) => self.write_table(table::Arrow::begin(out, &self.columns)?),
        }
    }

    /// Rows as they stand; `around`: what stands before the first, between two, behind the last, and where there is none.
    fn write_texts(&self, mut out: impl Write, around: [&str; 4], lines: bool) -> Result<()> {
        let mut written = 0u64;
        walk::walk(&self.registry, &self.entry, &mut |index, raw| {
            let text = match (raw.text, raw.value) {
                (Some(text), Ok(_)) if lines => walk::one_line(text),
                (Some(text), Ok(_)) => text.to_vec(),
                (Some(text), Err(_)) => self.faulty(text, lines),
                (None, Ok(value)) => value.to_string().into_bytes(),
                (None, Err(problem)) => return Err(at_row(*problem, &self.entry.name, index + 1).into()),
            };
            put(&mut out, around[usize::from(written > 0)].as_bytes())?;
            put(&mut out, &text)?;
            written += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        end(out, around[if written > 0 { 2 } else { 3 }])
    }

    /// A faulty row of JSON as it stands; one of a table as a JSON text.
    fn faulty(&self, text: &[u8], lines: bool) -> Vec<u8> {
        let files = self.registry.files(&self.entry).unwrap_or_default();
        let kind = files.first().and_then(|file| reader::kind(file));
        match kind {
            Some((Kind::Json | Kind::JsonLines, _)) if lines => walk::one_line(text),
            Some((Kind::Json | Kind::JsonLines, _)) => text.to_vec(),
            _ => walk::quoted(text),
        }
    }

    fn write_json(&self, mut out: impl Write, around: [&str; 4]) -> Result<()> {
        let mut written = 0u64;
        self.values(&mut |values| {
            for value in values {
                put(&mut out, around[usize::from(written > 0)].as_bytes())?;
                put(&mut out, value.to_string().as_bytes())?;
                written += 1;
            }
            Ok(())
        })?;
        end(out, around[if written > 0 { 2 } else { 3 }])
    }

    fn write_table(&self, mut table: impl Table) -> Result<()> {
        self.values(&mut |values| table.add(&values))?;
        table.end()
    }

    /// Gives all rows as objects, some hundred at a time.
    fn values(&self, each: &mut dyn FnMut(Vec<Value>) -> Result<()>) -> Result<()> {
        in_batches(&self.registry, &self.entry, &mut |batch| {
            let values = batch.into_par_iter().map(|row| self.value(row)).collect::<Result<Vec<Value>>>()?;
            each(values)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    fn value(&self, row: Row) -> Result<Value> {
        let told = |problem: Box<Problem>| Error::from(at_row(*problem, &self.entry.name, row.index + 1));
        let Some(wanted) = self.formatting else {
            return row.value.and_then(reader::object).map(Value::Object).map_err(told);
        };
        let example = walk::example(self.entry.format()?, &self.entry, &row.value).map_err(told)?;
        wanted.row(&example).map(Value::Object).map_err(told)
    }
}

fn put(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(Error::io("stdout"))
}

fn end(mut out: impl Write, text: &str) -> Result<()> {
    put(&mut out, text.as_bytes())?;
    out.flush().map_err(Error::io("stdout"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
