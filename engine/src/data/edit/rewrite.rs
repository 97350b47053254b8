//! A dataset's file written anew. Rows that nothing was asked of are carried over as they stand, faulty ones too.

use super::{BEFORE, Last, file_of, forget_file, kept_name, not_an_object, remember};
use crate::data::example::at_row;
use crate::data::reader::{self, Kind};
use crate::data::walk::{Row, in_batches, one_line, quoted};
use crate::data::{Kind as Holds, Registry, info};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What becomes of a row.
pub enum Outcome {
    Keep,
    Drop,
    /// These stand in its place.
    Put(Vec<Value>),
}

/// The new file beside the old one. Dropped before it takes its place, it is deleted.
pub struct Rewrite<'a> {
    registry: &'a Registry,
    entry: &'a info::Entry,
    /// The file as it is, and the one that will be: another where the old one isn't plain JSON.
    old: PathBuf,
    new: PathBuf,
    beside: PathBuf,
    out: BufWriter<File>,
    /// Rows stand in an array.
    array: bool,
    /// Every row on a line of its own.
    lines: bool,
    /// New rows are written over several lines, as those around them.
    pretty: bool,
    written: u64,
    touched: u64,
}

impl<'a> Rewrite<'a> {
    pub fn begin(registry: &'a Registry, entry: &'a info::Entry, path: &Path) -> Result<Self> {
        let kind = reader::kind(path);
        let (new, array) = match kind {
            Some((Kind::Json | Kind::JsonLines, false)) => (path.to_owned(), reader::is_array(path)?),
            _ => (free_name(path)?, false),
        };
        let lines = !matches!(kind, Some((Kind::Json, false))) && !array;
        let name = new.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let beside = new.with_file_name(format!(".{name}.new"));
        let out = BufWriter::with_capacity(1 << 18, File::create(&beside).map_err(Error::io(&beside))?);
        let (written, touched, pretty) = (0, 0, false);
        Ok(Self { registry, entry, old: path.into(), new, beside, out, array, lines, pretty, written, touched })
    }

    pub fn entry(&self) -> &info::Entry {
        self.entry
    }

    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Rows that were not kept.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    /// Goes through all rows, some hundred at a time; gives their number.
    pub fn rows(&mut self, decide: &mut dyn FnMut(&[Row]) -> Result<Vec<Outcome>>) -> Result<u64> {
        let mut seen = 0;
        in_batches(self.registry, self.entry, &mut |batch| {
            seen += batch.len() as u64;
            for (row, outcome) in batch.iter().zip(decide(&batch)?) {
                if matches!(outcome, Outcome::Keep) {
                    self.carry(row)?;
                    continue;
                }
                self.touched += 1;
                if let Outcome::Put(rows) = outcome {
                    self.pretty = row.text.as_ref().map_or(self.pretty, |text| text.contains(&b'\n'));
                    rows.iter().try_for_each(|row| self.put(row))?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(seen)
    }

    /// A row as it stands.
    fn carry(&mut self, row: &Row) -> Result<()> {
        match (&row.text, &row.value) {
            (Some(text), value) => {
                self.pretty = text.contains(&b'\n');
                let is_json = matches!(reader::kind(&self.old), Some((Kind::Json | Kind::JsonLines, _)));
                match (is_json, value) {
                    (false, Err(_)) => self.add(&quoted(text)),
                    _ if self.lines && self.pretty => self.add(&one_line(text)),
                    _ => self.add(text),
                }
            }
            (None, Ok(value)) => self.add(value.to_string().as_bytes()),
            (None, Err(problem)) => Err(at_row(*problem.clone(), &self.entry.name, row.index + 1).into()),
        }
    }

    /// A new row.
    pub fn put(&mut self, row: &Value) -> Result<()> {
        let text = match self.pretty && !self.lines {
            true => serde_json::to_string_pretty(row).map_err(|e| Error::Internal(e.to_string()))?,
            false => row.to_string(),
        };
        let text = if self.array { text.replace('\n', "\n  ") } else { text };
        self.add(text.as_bytes())
    }

    fn add(&mut self, text: &[u8]) -> Result<()> {
        let (before, after) = match (self.array, self.written) {
            (true, 0) => ("[\n  ", ""),
            (true, _) => (",\n  ", ""),
            (false, _) => ("", "\n"),
        };
        self.written += 1;
        let out = &mut self.out;
        let all = [before.as_bytes(), text, after.as_bytes()];
        all.into_iter().try_for_each(|part| out.write_all(part)).map_err(Error::io(&self.beside))
    }

    /// The new file takes the place of the old one, which is kept, and the entry says so.
    pub fn take_place(mut self, entries: &mut Map<String, Value>) -> Result<Last> {
        let end = match (self.array, self.written) {
            (true, 0) => "[]\n",
            (true, _) => "\n]\n",
            (false, _) => "",
        };
        let out = &mut self.out;
        out.write_all(end.as_bytes())
            .and_then(|()| out.flush())
            .and_then(|()| out.get_ref().sync_all())
            .map_err(Error::io(&self.beside))?;
        let (dir, name) = (self.registry.dir(), &self.entry.name);
        let entry = entries.get_mut(name).and_then(Value::as_object_mut).ok_or_else(|| not_an_object(name))?;
        let (before, old_name) = (entry.clone(), file_of(entry));
        forget_file(dir, &before)?;
        let kept = dir.join(kept_name(&old_name));
        let mut last = Last::default();
        let is_shared = |(other, entry): (&String, &Value)| other != name && entry["file_name"] == old_name.as_str();
        if self.new == self.old {
            // The file has its name at every moment; where links aren't possible, it is copied.
            fs::hard_link(&self.old, &kept)
                .or_else(|_| fs::copy(&self.old, &kept).map(|_| ()))
                .map_err(Error::io(&kept))?;
        } else {
            let name = self.new.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let folder = old_name.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
            entry.insert("file_name".into(), format!("{folder}{name}").into());
            // Without columns, the rows of a .txt file were texts by its name.
            let holds_text = self.entry.format()?.kind(self.entry) == Holds::Text;
            if holds_text && self.entry.columns.response.is_some() {
                entry.insert("columns".into(), json!({ "prompt": "text" }));
            }
        }
        remember(entry, before);
        let shared = entries.iter().any(is_shared);
        if self.new != self.old && !shared {
            last.rename = Some([self.old.clone(), kept]);
        }
        // Another dataset of the same file can't take back its own last change any more.
        let others =
            entries.iter_mut().filter(|(other, entry)| *other != name && entry["file_name"] == old_name.as_str());
        for other in others.filter_map(|(_, entry)| entry.as_object_mut()) {
            other.shift_remove(BEFORE);
        }
        fs::rename(&self.beside, &self.new).map_err(Error::io(&self.new))?;
        Ok(last)
    }
}

impl Drop for Rewrite<'_> {
    fn drop(&mut self) {
        // Once it has taken its place, it isn't there any more.
        let _ = fs::remove_file(&self.beside);
    }
}

/// A name for the rows of `path` as JSON Lines that no file has.
fn free_name(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or("dataset");
    let names = (1..1000).map(|n| if n == 1 { format!("{stem}.jsonl") } else { format!("{stem}-{n}.jsonl") });
    let free = names.map(|name| path.with_file_name(name)).find(|path| path.symlink_metadata().is_err());
    free.ok_or_else(|| Error::Internal(format!("no name is free for the rows of {name}")))
}
