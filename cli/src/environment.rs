//! Everything that the environment says, read once and only here.

use engine::Places;
use server::{hub::HubSettings, teacher::TeacherSettings};
use std::env;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Environment {
    /// The data folder: `--home`, `$LATHE_HOME` or `~/.lathe`.
    pub home: PathBuf,
    pub hub: HubSettings,
    pub teacher: TeacherSettings,
    /// `LATHE_TOKEN`, for the studio.
    pub token: Option<String>,
    /// `LATHE_CPU`: compute with no better instructions than these, for comparisons.
    pub cpu: Option<String>,
    /// For example `zh_CN.UTF-8`.
    pub language: String,
}

impl Environment {
    pub fn read() -> Self {
        let user = env::home_dir().unwrap_or_default();
        let cache = folder("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache"));
        Self {
            home: folder("LATHE_HOME").unwrap_or_else(|| user.join(".lathe")),
            hub: HubSettings {
                endpoint: text("HF_ENDPOINT"),
                home: folder("HF_HOME").unwrap_or_else(|| cache.join("huggingface")),
                token: text("HF_TOKEN"),
                offline: is_true("HF_HUB_OFFLINE"),
                modelscope: text("MODELSCOPE_DOMAIN"),
                modelscope_token: text("MODELSCOPE_API_TOKEN"),
                prefers_modelscope: is_true("USE_MODELSCOPE_HUB"),
            },
            teacher: TeacherSettings { key: text("LATHE_TEACHER_API_KEY"), url: text("LATHE_TEACHER_URL") },
            token: text("LATHE_TOKEN"),
            cpu: text("LATHE_CPU"),
            language: ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(text).unwrap_or_default(),
        }
    }

    /// With `--home`, as an absolute path.
    pub fn with_home(&self, home: Option<PathBuf>) -> Self {
        let home = home.unwrap_or_else(|| self.home.clone());
        Self { home: std::path::absolute(&home).unwrap_or(home), ..self.clone() }
    }

    pub fn places(&self) -> Places {
        Places { home: self.home.clone(), hub_cache: self.hub.home.join("hub") }
    }
}

/// All of it, for workers; the server lets through what they may see.
pub fn all() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    env::vars_os().collect()
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
}

fn folder(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// As huggingface_hub reads it.
fn is_true(name: &str) -> bool {
    text(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"))
}
