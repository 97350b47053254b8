//! The rows that a job starts from: tasks, questions or texts, with or without answers.

use crate::{
    Places, Result,
    data::{Registry, Row, info, reader, walk::walk_files},
};
use api::Problem;
use serde_json::Value;
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Columns in which a question, a task or a text stands where no entry says so.
const COLUMNS: [&str; 7] = ["instruction", "question", "prompt", "query", "text", "content", "sentence"];

/// A dataset by its name, or a file.
pub struct Source {
    files: Vec<PathBuf>,
    entry: Option<info::Entry>,
}

/// Finds the dataset `name`; a file of the person's own needs no known format, as only its questions are read.
pub fn find(name: &str, places: &Places) -> Result<Source> {
    if name.is_empty() {
        return Err(Problem::new("no_dataset", "No dataset is chosen.", "未选择数据集。")
            .hint("Set dataset to its name, or to a file.", "请将 dataset 设为其名称或文件。")
            .field("dataset")
            .into());
    }
    let path = Path::new(name);
    if path.is_file() && reader::kind(path).is_some() {
        return Ok(Source { files: vec![path.to_path_buf()], entry: None });
    }
    let registry = Registry::open(places.datasets())?;
    let entry = registry.entry(name)?;
    Ok(Source { files: registry.files(entry)?, entry: Some(entry.clone()) })
}

impl Source {
    pub fn rows(&self) -> Result<u64> {
        self.files.iter().map(|file| reader::count(file)).sum()
    }

    /// Calls `each` with the number of each row, from 0, and its question, until it breaks; a row without one has None.
    pub fn questions(&self, each: &mut dyn FnMut(u64, Option<String>) -> Result<ControlFlow<()>>) -> Result<()> {
        walk_files(&self.files, &mut |row, raw| each(row, raw.value.ok().and_then(|value| self.question(value))))
    }

    fn question(&self, value: Value) -> Option<String> {
        let row = match value {
            Value::String(text) => return full(&text),
            value => reader::object(value).ok()?,
        };
        let text = |column: &str| row.get(column).and_then(Value::as_str).and_then(full);
        if let Some(entry) = &self.entry {
            let columns = &entry.columns;
            let first = columns.prompt.as_deref().and_then(text);
            let more = columns.query.as_deref().and_then(text);
            if let Some(first) = first {
                return Some(more.map_or(first.clone(), |more| format!("{first}\n{more}")));
            }
            if let Some(asked) = asked(&row, entry) {
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
