//! Datasets on hubs: where an entry of `dataset_info.json` says that they are, and what a download is asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Within the dataset folder, what was downloaded: `.hub/hf` and `.hub/ms`, each in the layout of Hugging Face's cache.
pub const FOLDER: &str = ".hub";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HubName {
    /// Hugging Face, or a mirror of it.
    Hf,
    /// ModelScope.
    Ms,
}

impl HubName {
    pub const ALL: [Self; 2] = [Self::Hf, Self::Ms];

    /// As the command line and the folders have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Ms => "ms",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Hf => "Hugging Face",
            Self::Ms => "ModelScope",
        }
    }

    /// The branch that a repository has from the beginning.
    pub fn revision(self) -> &'static str {
        match self {
            Self::Hf => "main",
            Self::Ms => "master",
        }
    }
}

impl std::str::FromStr for HubName {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|hub| hub.word() == word);
        known.ok_or_else(|| format!("{word:?} is not hf or ms"))
    }
}

/// The keys of a `dataset_info.json` entry that say where on hubs its rows are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HubSource {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hf_hub_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_hub_url: Option<String>,
    /// On openMind, which Lathe doesn't download from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub om_hub_url: Option<String>,
    /// One of the configurations of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// `train` where it isn't given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Only files below this folder of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

impl HubSource {
    /// The repository on a hub.
    pub fn on(&self, hub: HubName) -> Option<&str> {
        match hub {
            HubName::Hf => self.hf_hub_url.as_deref(),
            HubName::Ms => self.ms_hub_url.as_deref(),
        }
    }

    /// The hub to download from: `preferred` where it has the dataset, otherwise the one that does.
    pub fn hub(&self, preferred: HubName) -> Option<HubName> {
        [preferred].into_iter().chain(HubName::ALL).find(|hub| self.on(*hub).is_some())
    }

    /// For people: `Hugging Face: owner/name`.
    pub fn shown(&self) -> String {
        let on = |hub: HubName| self.on(hub).map(|repo| format!("{}: {repo}", hub.title()));
        let openmind = self.om_hub_url.as_ref().map(|repo| format!("openMind: {repo}"));
        HubName::ALL.into_iter().filter_map(on).chain(openmind).next().unwrap_or_default()
    }

    /// The split that is read.
    pub fn split(&self) -> &str {
        self.split.as_deref().unwrap_or("train")
    }
}

/// Body of `POST /api/datasets/pull`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PullDataset {
    /// A dataset of `dataset_info.json` that is on a hub, or `owner/name`.
    pub id: String,
    /// The one that the environment prefers if not given.
    pub hub: Option<HubName>,
    pub subset: Option<String>,
    pub split: Option<String>,
    /// What the dataset will be called; made from the id if not given.
    pub name: Option<String>,
}

/// What a [`PullDataset`] comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PullPlan {
    pub name: String,
    pub hub: HubName,
    pub source: HubSource,
}

/// Whether this is the id of a repository, `owner/name` or `name`: nothing that could lead out of a folder or an address.
pub fn is_repo(id: &str) -> bool {
    id.split('/').count() <= 2 && id.split('/').all(is_repo_word)
}

/// One part of a repository's id.
pub fn is_repo_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 128
        && !word.starts_with(['.', '-'])
        && !word.contains("..")
        && !word.contains("--")
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
