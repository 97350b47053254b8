//! Where things stand on this machine; handed in by `cli`, which alone reads the environment.

use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Places {
    /// The data folder of Lathe: `datasets/`, `models/`, `runs/`, `exports/`, `cache/`.
    pub home: PathBuf,
    /// The hub cache in Hugging Face's layout, `$HF_HOME/hub`.
    pub hub_cache: PathBuf,
}

impl Places {
    pub fn datasets(&self) -> PathBuf {
        self.home.join("datasets")
    }

    pub fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    pub fn runs(&self) -> PathBuf {
        self.home.join("runs")
    }

    /// Encoded datasets by what they were made of.
    pub fn tokens(&self) -> PathBuf {
        self.home.join("cache/tokens")
    }

    pub fn exports(&self) -> PathBuf {
        self.home.join("exports")
    }
}
