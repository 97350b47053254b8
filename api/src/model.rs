//! Models that can be trained, chatted with or exported.

use crate::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One model on this computer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// What `model_name_or_path` takes: `starter`, a hub id, a folder, a `.gguf` file.
    pub name: String,
    /// `starter`, `home` (in the data folder), `hub` (Hugging Face cache), `run` (a fully tuned model).
    pub source: String,
    /// `safetensors` or `gguf`.
    pub format: String,
    pub family: String,
    pub parameters: u64,
    pub bytes: u64,
    /// Storage type, for example `bf16` or `Q4_1`.
    pub dtype: String,
    pub context: u64,
    pub has_template: bool,
    /// Why it can't be used, if it can't.
    pub problem: Option<Problem>,
}

/// Body of `POST /api/models/pull`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PullModel {
    pub id: String,
    #[serde(default)]
    pub revision: String,
}
