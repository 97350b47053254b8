//! Datasets as the studio lists and previews them.

use crate::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
