//! What rows ask, with or without answers: tasks, questions or texts.

use super::{Registry, Row, info, reader, walk::walk_files};
use crate::{Places, Result};
use api::Problem;
use serde_json::Value;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Columns in which a question, a task or a text stands where no entry says so.
const COLUMNS: [&str; 7] = ["instruction", "question", "prompt", "query", "text", "content", "sentence"];

/// The rows of a dataset, or of a file.
pub struct Questions {
    files: Vec<PathBuf>,
    pub entry: Option<info::Entry>,
}

/// Finds the dataset `name`; a file of the person's own needs no known format, as only its questions are read.
pub fn find(name: &str, places: &Places) -> Result<Questions> {
    if name.is_empty() {
        return Err(Problem::new("no_dataset", "No dataset is chosen.", "未选择数据集。")
            .hint("Set dataset to its name, or to a file.", "请将 dataset 设为其名称或文件。")
            .field("dataset")
            .into());
    }
    let path = Path::new(name);
    if path.is_file() && reader::kind(path).is_some() {
        return Ok(Questions { files: vec![path.to_path_buf()], entry: None });
    }
    of_dataset(name, places)
}

/// Finds the dataset `name`, which is registered.
pub fn of_dataset(name: &str, places: &Places) -> Result<Questions> {
    let registry = Registry::open(places.datasets())?;
    let entry = registry.entry(name)?;
    Ok(Questions { files: registry.files(entry)?, entry: Some(entry.clone()) })
}

impl Questions {
    pub fn rows(&self) -> Result<u64> {
        self.files.iter().map(|file| reader::count(file)).sum()
    }

    /// Calls `each` with the number of each row, from 0, and its question, until it breaks; a row without one has None.
    pub fn each(&self, each: &mut dyn FnMut(u64, Option<String>) -> Result<ControlFlow<()>>) -> Result<()> {
        walk_files(&self.files, &mut |row, raw| {
            each(
                row,
                match raw.value {
                    Ok(Value::String(text)) => full(&text),
                    Ok(Value::Object(value)) => self.of(&value),
                    _ => None,
                },
            )
        })
    }

    /// Calls `each` with every row that has columns, until it breaks.
    pub fn each_row(&self, each: &mut dyn FnMut(Row) -> Result<ControlFlow<()>>) -> Result<()> {
        walk_files(&self.files, &mut |_, raw| match raw.value {
            Ok(Value::Object(row)) => each(row),
            _ => Ok(ControlFlow::Continue(())),
        })
    }

    /// The question of a row.
    pub fn of(&self, row: &Row) -> Option<String> {
        let text = |column: &str| row.get(column).and_then(Value::as_str).and_then(full);
        if let Some(entry) = &self.entry {
            let columns = &entry.columns;
            let first = columns.prompt.as_deref().and_then(text);
            let more = columns.query.as_deref().and_then(text);
            if let Some(first) = first {
                return Some(more.map_or(first.clone(), |more| format!("{first}\n{more}")));
            }
            if let Some(asked) = asked(row, entry) {
                return Some(asked);
            }
        }
        COLUMNS.iter().find_map(|column| text(column))
    }
}

/// The first message of a person in a conversation.
fn asked(row: &Row, entry: &info::Entry) -> Option<String> {
    let messages = row.get(entry.columns.messages.as_deref()?)?.as_array()?;
    let (role, content) = (entry.tags.role.as_deref()?, entry.tags.content.as_deref()?);
    let user = entry.tags.user.as_deref()?;
    let message = messages.iter().find(|message| message.get(role).and_then(Value::as_str) == Some(user))?;
    message.get(content)?.as_str().and_then(full)
}

fn full(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
