//! What the server asks the engine between runs. The server never links the engine: it starts `lathe worker --ask`,
//! writes one [`Question`] as JSON to its stdin and reads one [`Answer`] from its stdout.

use crate::{
    config::RunConfig,
    data::{Columns, DatasetInfo, Edit, Edited, FileType, Preview, RowsWanted, Statistics, TokenPreview},
    hub::{HubName, HubSource, PullDataset, PullPlan},
    model::ModelInfo,
    plan::Plan,
    preference::{Ballot, BuildPairs, CastVote, Pairs, PairsWanted},
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
    /// The plan of a training run as two steps of it, made for this, say.
    Measure {
        config: RunConfig,
    },
    /// Every entry of the dataset folder's `dataset_info.json`.
    Datasets,
    /// Some rows of a dataset.
    Rows {
        dataset: String,
        wanted: RowsWanted,
    },
    /// How a dataset's columns are read, and what they are.
    Columns {
        dataset: String,
    },
    /// A row as the tokens of a run.
    Tokens {
        dataset: String,
        /// From 0.
        row: u64,
        config: RunConfig,
    },
    /// What a dataset holds, counted with a run's model and settings.
    Statistics {
        dataset: String,
        config: RunConfig,
    },
    /// Changes a dataset's rows or how they are read.
    Edit {
        dataset: String,
        edit: Edit,
        config: RunConfig,
    },
    /// The dataset as a file. Behind the line of its answer, [`Answer::Exporting`], stdout carries that file.
    Export {
        dataset: String,
        file_type: FileType,
        /// `alpaca`, `sharegpt`, `openai`; its rows as they stand if none.
        formatting: Option<String>,
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
    /// Pairs of answers from several datasets, and what the filters leave of them.
    Pairs {
        wanted: PairsWanted,
    },
    /// Makes a dataset of pairs.
    BuildPairs {
        wanted: BuildPairs,
    },
    /// What a person is asked next about a dataset's answers; with `cast`, behind that vote.
    Ballot {
        dataset: String,
        cast: Option<CastVote>,
    },
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
    Checked { reply: Box<CheckReply> },
    Datasets { datasets: Vec<DatasetInfo> },
    Rows { preview: Preview },
    Columns { columns: Columns },
    Tokens { preview: TokenPreview },
    Statistics { statistics: Statistics },
    Edited { edited: Edited },
    Exporting,
    Registered { dataset: DatasetInfo },
    Forgotten,
    Models { models: Vec<ModelInfo> },
    Pairs { pairs: Pairs },
    Ballot { ballot: Ballot },
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
