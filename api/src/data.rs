//! Datasets as the studio lists and previews them.

use crate::{config::RunConfig, problem::Problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One entry of `dataset_info.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DatasetInfo {
    pub name: String,
    /// File or folder, relative to the dataset folder.
    pub file: String,
    /// `alpaca`, `sharegpt`, `openai`.
    pub formatting: String,
    /// What the rows are: `instructions`, `preferences`, `kto`, `text`.
    pub kind: String,
    pub rows: u64,
    pub bytes: u64,
    /// Whether its rows can be changed in the studio: its file stands in Lathe's own dataset folder.
    #[serde(default)]
    pub editable: bool,
    /// Whether the last change can be taken back.
    #[serde(default)]
    pub undoable: bool,
    pub problem: Option<Problem>,
}

/// One row as it stands in the file and as the trainer reads it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewRow {
    /// From 0.
    pub index: u64,
    pub raw: Value,
    /// The conversation, if the row has one.
    pub messages: Vec<Message>,
    pub problem: Option<Problem>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    pub dataset: DatasetInfo,
    pub offset: u64,
    pub rows: Vec<PreviewRow>,
    /// Whether there are more rows (or, in a search, more that match) after these.
    pub more: bool,
}

/// Which rows of a dataset are wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RowsWanted {
    /// Of the rows that match, from this one on.
    pub offset: u64,
    /// At most so many; 200 at most.
    pub limit: u64,
    /// Only rows with this text in a value, whatever its case.
    pub search: String,
    /// Only rows with a problem.
    pub faulty: bool,
}

/// How the rows of a dataset are read: `formatting`, `ranking`, `columns` and `tags` of its `dataset_info.json` entry,
/// by the names that LLaMA-Factory gives them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mapping {
    pub formatting: String,
    pub ranking: bool,
    /// For example `prompt` to `question`.
    pub columns: BTreeMap<String, String>,
    /// For example `user_tag` to `human`.
    pub tags: BTreeMap<String, String>,
}

/// The mapping of a dataset, the columns that its rows have, and what Lathe would guess.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Columns {
    pub mapping: Mapping,
    pub guess: Option<Mapping>,
    /// Of the first rows, in their order.
    pub found: Vec<String>,
}

/// One row as the trainer's tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenPreview {
    /// From 0.
    pub row: u64,
    pub tokens: Vec<Token>,
    /// The first so many tokens are kept; those behind them are cut off at `cutoff_len`.
    pub kept: u64,
    pub cutoff_len: u64,
    /// Tokens with a loss among those kept.
    pub trained: u64,
    /// `model`, or the name of the template.
    pub template: String,
    /// SHA-256 of the kept tokens as the trainer reads them: each as four bytes, little-endian, the highest bit set where
    /// it is trained.
    pub sha256: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    pub id: u32,
    /// What it adds to the text; bytes that are no character by themselves as `\xE4`.
    pub text: String,
    pub trained: bool,
    /// One of the tokenizer's special tokens.
    pub special: bool,
}

/// What a dataset holds, counted over its rows with a run's model and settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// Rows looked at.
    pub rows: u64,
    /// Whether that was all of them; a large dataset is looked at for some seconds only.
    pub complete: bool,
    /// Tokens before they are cut, and those of them that are trained after the cut.
    pub tokens: u64,
    pub trained: u64,
    pub longest: u64,
    pub median: u64,
    pub cutoff_len: u64,
    /// How many rows have how many tokens: bars of equal width from 0 on.
    pub lengths: Vec<Bar>,
    /// What stands out, each with its rows. Kinds that no row has are left out.
    pub findings: Vec<Finding>,
    /// Rows by language (`en`, `zh`, … of ISO 639-1; `code`, `other`), most first.
    pub languages: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bar {
    /// Tokens, from this number on.
    pub from: u64,
    /// Up to, not with, this number.
    pub to: u64,
    pub rows: u64,
}

/// Rows with the same flaw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub flaw: Flaw,
    pub rows: u64,
    /// The first of them, from 0; at most 100.
    pub first: Vec<u64>,
    /// For faulty rows: the problem of the first of them.
    pub problem: Option<Problem>,
}

/// What can be wrong with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// It can't be read.
    Faulty,
    /// An earlier row is the same conversation.
    Duplicate,
    /// An answer in it is empty.
    EmptyAnswer,
    /// No token of it would be trained.
    AllMasked,
    /// It is longer than `cutoff_len`.
    Truncated,
}

/// A change of a dataset's rows. The file is written anew beside the old one and takes its place at once; the file that it
/// had before stays as `FILE.before`, for `undo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Edit {
    /// Puts `raw` in the place of a row. Rows count from 0.
    Set {
        row: u64,
        raw: Value,
    },
    /// Puts rows behind the last one.
    Add {
        rows: Vec<Value>,
    },
    Delete {
        rows: Vec<u64>,
    },
    /// Drops all rows with the flaw.
    Drop {
        flaw: Flaw,
    },
    /// Cuts the last answer of each row that is longer than `cutoff_len`, so that the row fits with its end.
    Truncate,
    /// Makes of each conversation that is longer than `cutoff_len` several that fit, cut between a turn and the next, each
    /// with the system message.
    Split,
    /// Reads the columns otherwise; the file stays as it is.
    Map {
        mapping: Mapping,
    },
    /// The file as it was before the last change.
    Undo,
}

/// Body of `POST /api/datasets/{name}/edit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EditDataset {
    pub edit: Edit,
    /// The run whose model, template and `cutoff_len` say what is long, masked and so on.
    #[serde(default)]
    pub config: RunConfig,
}

/// Answer to an [`EditDataset`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Edited {
    pub dataset: DatasetInfo,
    /// Rows that were changed, added or dropped.
    pub rows: u64,
}

/// Body of `POST /api/datasets/{name}/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensWanted {
    /// From 0.
    pub row: u64,
    pub config: RunConfig,
}

/// What a dataset is written as for a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    #[default]
    Json,
    Jsonl,
    Csv,
    Parquet,
    Arrow,
}

/// One message of a conversation; `role` is `system`, `user`, `assistant`, `tool`, or `function` (an answer that calls
/// tools: its content is the JSON of the calls).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}
