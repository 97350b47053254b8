//! Changes of a dataset's rows, each in one piece: the file is written anew beside the old one, flushed to the disk, and
//! takes its place; the one before stays as `FILE.before`, and its entry inside the new one, for one step back.

mod fit;
mod rewrite;

use super::inspect::{self, Looked, RowEncoder};
use super::preview::{self, change, put_mapping};
use super::walk::Row;
use super::{Registry, Source, example, info, reader};
use crate::{Error, Places, Result};
use api::data::{Edit, Edited, Flaw};
use api::{Problem, RunConfig};
use rayon::prelude::*;
use rewrite::{Outcome, Rewrite};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Under this key an entry of `dataset_info.json` keeps what it was before the last change.
pub const BEFORE: &str = "before";
/// As many rows are looked at for faults behind a change.
const CHECKED_ROWS: usize = 100;

/// Changes the dataset `name` of the folder `dir`, or nothing at all. `config` says what is long, masked and so on.
pub fn edit(dir: &Path, name: &str, edit: &Edit, config: &RunConfig, places: &Places) -> Result<Edited> {
    let (mut rows, mut last) = (0, Last::default());
    change(dir, |entries| {
        if !entries.contains_key(name) {
            Registry::open(dir)?.entry(name)?;
        }
        match edit {
            Edit::Undo => last = undo(dir, name, entries)?,
            Edit::Map { mapping } => {
                let entry = entries.get_mut(name).and_then(Value::as_object_mut).ok_or_else(|| not_an_object(name))?;
                let before = entry.clone();
                put_mapping(mapping, entry)?;
                forget_file(dir, &before)?;
                remember(entry, before);
            }
            edit => {
                let registry = Registry::open(dir)?;
                let entry = registry.entry(name)?;
                let path = own_file(&registry, entry)?;
                let mut rewrite = Rewrite::begin(&registry, entry, &path)?;
                rows = write(edit, &mut rewrite, config, places)?;
                if rows > 0 {
                    last = rewrite.take_place(entries)?;
                }
            }
        }
        Ok(())
    })?;
    last.run()?;
    Ok(Edited { dataset: preview::one(dir, name, Some(CHECKED_ROWS))?, rows })
}

/// What is done once `dataset_info.json` no longer needs a file.
#[derive(Default)]
struct Last {
    rename: Option<[PathBuf; 2]>,
    remove: Option<PathBuf>,
}

impl Last {
    fn run(self) -> Result<()> {
        if let Some([from, to]) = self.rename {
            fs::rename(&from, to).map_err(Error::io(&from))?;
        }
        self.remove.map_or(Ok(()), |path| fs::remove_file(&path).map_err(Error::io(&path)))
    }
}

/// The dataset's file, if it stands in the dataset folder itself and not elsewhere behind a link: only such are changed.
pub fn own_file(registry: &Registry, entry: &info::Entry) -> Result<PathBuf> {
    let name = &entry.name;
    let refused = |en: &str, zh: &str| {
        let problem = Problem::new("not_editable", format!("Dataset {name} is {en}."), format!("数据集 {name} {zh}。"));
        problem.hint("Download it, then upload the file under another name.", "请先下载，再以另一名称上传该文件。")
    };
    let Source::File(file) = &entry.source else {
        return Err(refused("on a hub, and its rows can't be changed here", "位于远程，无法在此修改").into());
    };
    let path = info::confined(registry.dir(), file)?;
    let meta = path.symlink_metadata().map_err(Error::io(&path))?;
    if meta.is_dir() {
        return Err(
            refused("a folder of files, and its rows can't be changed here", "是一个文件夹，无法在此修改").into()
        );
    }
    if !meta.is_file() || file == info::FILE {
        return Err(refused("a link to a file elsewhere, which is not changed", "是指向别处的链接，不予修改").into());
    }
    Ok(path)
}

/// Deletes the file that the last change of a forgotten entry left for its undoing.
pub fn forget_before(dir: &Path, entry: &Value) -> Result<()> {
    entry.get(BEFORE).and_then(Value::as_object).map_or(Ok(()), |before| forget_file(dir, before))
}

/// Writes all rows with the change made; gives the number of rows that it touched.
fn write(edit: &Edit, rewrite: &mut Rewrite, config: &RunConfig, places: &Places) -> Result<u64> {
    let encoder = || RowEncoder::of(config, places);
    match edit {
        Edit::Set { row, raw } => set(rewrite, *row, raw),
        Edit::Add { rows } => {
            let rows: Vec<Value> = rows.iter().map(|row| given(row.clone())).collect::<Result<_>>()?;
            rewrite.rows(&mut |batch| Ok(batch.iter().map(|_| Outcome::Keep).collect()))?;
            rows.iter().try_for_each(|row| rewrite.put(row))?;
            Ok(rows.len() as u64)
        }
        Edit::Delete { rows } => {
            let mut left: BTreeSet<u64> = rows.iter().copied().collect();
            let seen = rewrite.rows(&mut |batch| {
                let outcome = |row: &Row| if left.remove(&row.index) { Outcome::Drop } else { Outcome::Keep };
                Ok(batch.iter().map(outcome).collect())
            })?;
            match left.first() {
                Some(row) => Err(inspect::no_row(rewrite.name(), *row, seen)),
                None => Ok(rewrite.touched()),
            }
        }
        Edit::Drop { flaw } => {
            let encoder = match flaw {
                Flaw::Duplicate | Flaw::EmptyAnswer => None,
                Flaw::Faulty | Flaw::AllMasked | Flaw::Truncated => Some(encoder()?),
            };
            let (entry, mut seen) = (rewrite.entry().clone(), HashSet::new());
            rewrite.rows(&mut |batch| {
                let looked = batch.par_iter().map(|row| inspect::look(row, &entry, encoder.as_ref()));
                let looked: Vec<Looked> = looked.collect();
                let outcome = |looked: Looked| {
                    let again = looked.digest.is_some_and(|digest| !seen.insert(digest));
                    let drop = if *flaw == Flaw::Duplicate { again } else { looked.flaws.contains(flaw) };
                    if drop { Outcome::Drop } else { Outcome::Keep }
                };
                Ok(looked.into_iter().map(outcome).collect())
            })?;
            Ok(rewrite.touched())
        }
        Edit::Truncate => fitted(rewrite, &encoder()?, fit::truncate),
        Edit::Split => fitted(rewrite, &encoder()?, fit::split),
        Edit::Map { .. } | Edit::Undo => Ok(0),
    }
}

/// Puts what `fit` makes of a row in its place.
fn fitted(
    rewrite: &mut Rewrite,
    encoder: &RowEncoder,
    fit: impl Fn(&super::Row, &info::Entry, &RowEncoder) -> Option<Vec<super::Row>> + Sync,
) -> Result<u64> {
    let entry = rewrite.entry().clone();
    rewrite.rows(&mut |batch| {
        let outcome = |row: &Row| {
            let object = row.value.as_ref().ok().and_then(Value::as_object);
            let made = object.and_then(|object| fit(object, &entry, encoder));
            made.map_or(Outcome::Keep, |rows| Outcome::Put(rows.into_iter().map(Value::Object).collect()))
        };
        Ok(batch.par_iter().map(outcome).collect())
    })?;
    Ok(rewrite.touched())
}

fn set(rewrite: &mut Rewrite, wanted: u64, raw: &Value) -> Result<u64> {
    let raw = given(raw.clone())?;
    let seen = rewrite.rows(&mut |batch| {
        let outcome = |row: &Row| {
            if row.index != wanted {
                return Ok(Outcome::Keep);
            }
            let old = row.value.as_ref().unwrap_or(&Value::Null);
            let new = preview::uncut(raw.clone(), old).ok_or_else(shown_cut)?;
            Ok(Outcome::Put(vec![new]))
        };
        batch.iter().map(outcome).collect()
    })?;
    if wanted >= seen { Err(inspect::no_row(rewrite.name(), wanted, seen)) } else { Ok(1) }
}

/// A row as it was handed in: an object, or its JSON as text.
fn given(raw: Value) -> Result<Value> {
    let raw = match raw {
        Value::String(text) => serde_json::from_str(&text).map_err(|e| not_json(&e))?,
        other => other,
    };
    Ok(Value::Object(reader::object(raw).map_err(Error::Problem)?))
}

/// Takes back the last change of an entry.
fn undo(dir: &Path, name: &str, entries: &mut Map<String, Value>) -> Result<Last> {
    let entry = entries.get(name).and_then(Value::as_object).ok_or_else(|| not_an_object(name))?;
    let before = entry.get(BEFORE).and_then(Value::as_object).ok_or_else(|| nothing_before(name))?.clone();
    let (now, old) = (file_of(entry), file_of(&before));
    let mut last = Last::default();
    if let Ok(kept) = info::confined(dir, &kept_name(&old)) {
        let path = dir.join(&old);
        fs::rename(&kept, &path).map_err(Error::io(&kept))?;
    }
    let is_shared = entries.iter().any(|(other, entry)| other != name && entry["file_name"] == now.as_str());
    if now != old && !is_shared {
        last.remove = info::confined(dir, &now).ok();
    }
    entries.insert(name.into(), Value::Object(before));
    Ok(last)
}

/// Keeps in an entry what it was before.
fn remember(entry: &mut super::Row, mut before: super::Row) {
    before.shift_remove(BEFORE);
    entry.insert(BEFORE.into(), Value::Object(before));
}

/// Deletes what an earlier change of the entry left for its undoing.
fn forget_file(dir: &Path, entry: &super::Row) -> Result<()> {
    let before = entry.get(BEFORE).and_then(Value::as_object);
    for entry in before.into_iter().chain([entry]) {
        if let Ok(kept) = info::confined(dir, &kept_name(&file_of(entry))) {
            fs::remove_file(&kept).map_err(Error::io(&kept))?;
        }
    }
    Ok(())
}

fn file_of(entry: &super::Row) -> String {
    entry.get("file_name").and_then(Value::as_str).unwrap_or_default().into()
}

/// The name under which a file is kept for undoing.
fn kept_name(file: &str) -> String {
    format!("{file}.before")
}

fn not_an_object(name: &str) -> Error {
    Problem::new(
        "bad_dataset_entry",
        format!("Entry {name} of {} is not an object.", info::FILE),
        format!("{} 的条目 {name} 不是对象。", info::FILE),
    )
    .hint("Delete the dataset and upload its file again.", "请删除该数据集并重新上传文件。")
    .into()
}

fn nothing_before(name: &str) -> Problem {
    Problem::new(
        "nothing_to_undo",
        format!("Dataset {name} has no change that could be taken back."),
        format!("数据集 {name} 没有可撤销的修改。"),
    )
    .hint("Only the last change can be taken back, once.", "只能撤销最近一次修改。")
}

fn not_json(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    *example::fault(
        "row_not_json",
        format!("The row is not valid JSON: {error}."),
        format!("该行不是有效的 JSON（第 {line} 行第 {column} 列）：{error}。"),
    )
}

fn shown_cut() -> Problem {
    Problem::new(
        "row_shown_cut",
        "A text of the row was shown cut, and saving it so would lose the rest.",
        "该行有文本显示时被截断，直接保存会丢失其余内容。",
    )
    .hint("Change this row in the file itself.", "请直接在文件中修改该行。")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
