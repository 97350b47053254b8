//! Which columns a dataset has, and what they are read as.

use super::register;
use crate::data::{Registry, Row, format, info, reader};
use crate::{Result, entry::unknown};
use api::Problem;
use api::data::{Columns, Mapping};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::Path;

/// So many rows are looked at for their columns.
const LOOKED_AT: u64 = 20;

/// Names of columns and tags in `dataset_info.json`, with where an entry keeps what it says about them.
type Name<T> = (&'static str, fn(&T) -> &Option<String>);

const COLUMNS: [Name<info::Columns>; 13] = [
    ("prompt", |c| &c.prompt),
    ("query", |c| &c.query),
    ("response", |c| &c.response),
    ("history", |c| &c.history),
    ("messages", |c| &c.messages),
    ("system", |c| &c.system),
    ("tools", |c| &c.tools),
    ("images", |c| &c.images),
    ("videos", |c| &c.videos),
    ("audios", |c| &c.audios),
    ("chosen", |c| &c.chosen),
    ("rejected", |c| &c.rejected),
    ("kto_tag", |c| &c.kto_tag),
];

const TAGS: [Name<info::Tags>; 7] = [
    ("role_tag", |t| &t.role),
    ("content_tag", |t| &t.content),
    ("user_tag", |t| &t.user),
    ("assistant_tag", |t| &t.assistant),
    ("observation_tag", |t| &t.observation),
    ("function_tag", |t| &t.function),
    ("system_tag", |t| &t.system),
];

/// Columns that conversations in lists have no use for, and the other way round.
const OF_ALPACA: [&str; 4] = ["prompt", "query", "response", "history"];
const OF_MESSAGES: [&str; 1] = ["messages"];

/// The mapping of a dataset, the columns of its first rows, and what Lathe would guess from them.
pub fn columns(dir: &Path, name: &str) -> Result<Columns> {
    let registry = Registry::open(dir)?;
    let entry = registry.entry(name)?;
    let rows = first_rows(&registry, entry)?;
    let guess = rows.iter().find_map(register::of_row).or_else(|| rows.first().and_then(two_texts));
    let guess = guess.map(|mut guess| {
        guess.insert("file_name".into(), "x.json".into());
        of(&info::Entry::parse(name, &Value::Object(guess)))
    });
    Ok(Columns { mapping: of(entry), guess, found: found(&rows) })
}

/// How an entry's rows are read, with the defaults that apply to it.
fn of(entry: &info::Entry) -> Mapping {
    let useless: &[&str] = if entry.formatting == "alpaca" { &OF_MESSAGES } else { &OF_ALPACA };
    let columns = COLUMNS.iter().filter(|(name, _)| !useless.contains(name));
    let columns = columns.filter_map(|(name, value)| Some((name.to_string(), value(&entry.columns).clone()?)));
    let tags = TAGS.iter().filter(|_| entry.formatting != "alpaca");
    let tags = tags.filter_map(|(name, value)| Some((name.to_string(), value(&entry.tags).clone()?)));
    Mapping {
        formatting: entry.formatting.clone(),
        ranking: entry.ranking,
        columns: columns.collect(),
        tags: tags.collect(),
    }
}

/// Writes a mapping into an entry of `dataset_info.json`; an unknown format or name of a column is a problem.
pub fn put(mapping: &Mapping, entry: &mut Row) -> Result<()> {
    format(&mapping.formatting)?;
    entry.insert("formatting".into(), mapping.formatting.as_str().into());
    if mapping.ranking {
        entry.insert("ranking".into(), true.into());
    } else {
        entry.shift_remove("ranking");
    }
    let known: [(&str, &_, Vec<&str>); 2] = [
        ("columns", &mapping.columns, COLUMNS.iter().map(|(name, _)| *name).collect()),
        ("tags", &mapping.tags, TAGS.iter().map(|(name, _)| *name).collect()),
    ];
    for (key, names, known) in known {
        if let Some(name) = names.keys().find(|name| !known.contains(&name.as_str())) {
            let what = ["column of dataset_info.json", "dataset_info.json 列名"];
            return Err(unknown("unknown_column", what, name, known.iter().copied()).field(key).into());
        }
        let names: Map<String, Value> = names
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        if names.is_empty() {
            entry.shift_remove(key);
        } else {
            entry.insert(key.into(), Value::Object(names));
        }
    }
    Ok(())
}

/// The problem of a dataset that has none of the columns that it is said to have.
pub(super) fn unmapped(registry: &Registry, entry: &info::Entry) -> Result<Option<Problem>> {
    let found = found(&first_rows(registry, entry)?);
    let mapping = of(entry);
    let is_read = |column: &String| mapping.columns.values().any(|read| read == column);
    // The rows of a .txt file have this one column, whatever the entry says.
    if found.is_empty() || found.iter().any(|column| is_read(column) || column == "text") {
        return Ok(None);
    }
    let (name, columns) = (&entry.name, found.iter().take(20).map(String::as_str).collect::<Vec<_>>());
    let problem = Problem::new(
        "dataset_unmapped",
        format!("Dataset {name} has the columns {}, and none of them is known.", columns.join(", ")),
        format!("数据集 {name} 的列为 {}，均无法识别。", columns.join("、")),
    );
    Ok(Some(
        problem
            .hint(
                "Say in the Data tab which column is the question and which the answer.",
                "请在“数据”页指明哪一列是问题、哪一列是回答。",
            )
            .field("dataset"),
    ))
}

/// Objects among the first rows.
fn first_rows(registry: &Registry, entry: &info::Entry) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for file in registry.files(entry)?.into_iter().take(1) {
        reader::read(&file, &mut |row, value| {
            if let Ok(Value::Object(object)) = value {
                rows.push(object);
            }
            Ok(if row + 1 >= LOOKED_AT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    Ok(rows)
}

fn found(rows: &[Row]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for key in rows.iter().flat_map(Map::keys) {
        if !found.contains(key) {
            found.push(key.clone());
        }
    }
    found
}

/// Of a row with just two texts: the first is the question, the second the answer.
fn two_texts(row: &Row) -> Option<Row> {
    let texts: Vec<&String> = row.iter().filter(|(_, value)| value.is_string()).map(|(key, _)| key).collect();
    let [question, answer] = texts[..] else { return None };
    let columns = serde_json::json!({ "prompt": question, "response": answer });
    Some(Row::from_iter([("columns".to_string(), columns)]))
}
