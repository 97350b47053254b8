//! What the server asks the engine between runs. The server never links the engine: it starts `lathe worker --ask`,
//! writes one [`Question`] as JSON to its stdin and reads one [`Answer`] from its stdout.

use crate::{
    config::RunConfig,
    data::{DatasetInfo, Preview},
    hub::{HubName, HubSource, PullDataset, PullPlan},
    model::ModelInfo,
    plan::Plan,
    problem::Problem,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Question {
    /// The plan of a training run, or all problems.
    Check {
        config: RunConfig,
    },
    /// Every entry of the dataset folder's `dataset_info.json`.
    Datasets,
    /// Some rows of a dataset.
    Rows {
        dataset: String,
        offset: u64,
        limit: u64,
    },
    /// Registers an uploaded file (already in the dataset folder, by its name there) under a dataset name:
    /// recognises its format, writes `dataset_info.json`.
    Register {
        name: String,
        file: String,
    },
    /// Takes an entry out of `dataset_info.json` and deletes its file if it stands in the dataset folder.
    Forget {
        dataset: String,
    },
    Models,
    /// What a download of a dataset comes to; `preferred` decides where two hubs have it.
    PlanPull {
        wanted: PullDataset,
        preferred: HubName,
    },
    /// Of the files of a repository, those that hold the rows of the source; `readme`: its README.md.
    ChooseFiles {
        source: HubSource,
        names: Vec<String>,
        readme: String,
    },
    /// Puts a downloaded dataset into `dataset_info.json`, unless it stands there already.
    RegisterPulled {
        plan: PullPlan,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    Checked { reply: CheckReply },
    Datasets { datasets: Vec<DatasetInfo> },
    Rows { preview: Preview },
    Registered { dataset: DatasetInfo },
    Forgotten,
    Models { models: Vec<ModelInfo> },
    PullPlanned { plan: PullPlan },
    Chosen { names: Vec<String> },
    Failed { problems: Vec<Problem> },
}

/// Answer of `POST /api/check`: a plan, or every problem with the argument that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReply {
    pub plan: Option<Plan>,
    pub problems: Vec<Problem>,
}
