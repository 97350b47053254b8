//! Everything that the environment says, read once and only here.

use crate::memory;
use api::Problem;
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
    /// `LATHE_WEBHOOK` and `LATHE_WEBHOOK_SECRET`: who is told of changes of a job's state, and what signs that.
    pub webhook: Option<String>,
    pub webhook_secret: Option<String>,
    /// `API_HOST`, `API_PORT`, `API_MODEL_NAME`, for `lathe api`, as LLaMA-Factory names them.
    pub api_host: Option<String>,
    pub api_port: Option<String>,
    pub api_model_name: Option<String>,
    /// `API_KEY`: one or several with commas between; each opens what the server has for programs.
    pub api_keys: Vec<String>,
    /// `LATHE_CPU`: compute with no better instructions than these, for comparisons.
    pub cpu: Option<String>,
    /// `LATHE_MAX_MEMORY`: bytes that a worker may have, for example `16G`.
    pub max_memory: Option<String>,
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
            webhook: text("LATHE_WEBHOOK"),
            webhook_secret: text("LATHE_WEBHOOK_SECRET"),
            api_host: text("API_HOST"),
            api_port: text("API_PORT"),
            api_model_name: text("API_MODEL_NAME"),
            api_keys: text("API_KEY").iter().flat_map(|keys| keys.split(',')).map(|key| key.trim().into()).collect(),
            cpu: text("LATHE_CPU"),
            max_memory: text("LATHE_MAX_MEMORY"),
            language: ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(text).unwrap_or_default(),
        }
    }

    /// With `--home`, as an absolute path.
    pub fn with_home(&self, home: Option<PathBuf>) -> Self {
        let home = home.unwrap_or_else(|| self.home.clone());
        Self { home: std::path::absolute(&home).unwrap_or(home), ..self.clone() }
    }

    /// The bytes of memory that a worker may have, if there is a limit.
    pub fn memory_limit(&self) -> Result<Option<u64>, Problem> {
        self.max_memory.as_ref().map(|text| memory::bytes(text).ok_or_else(|| bad_limit(text))).transpose()
    }

    pub fn places(&self) -> Places {
        Places { home: self.home.clone(), hub_cache: self.hub.home.join("hub") }
    }
}

fn bad_limit(text: &str) -> Problem {
    Problem::new(
        "bad_memory_limit",
        format!("LATHE_MAX_MEMORY is {text:?}, which this process can't be held to."),
        format!("LATHE_MAX_MEMORY 为 {text:?}，无法据此限制内存。"),
    )
    .hint("Write, for example, 16G or 512M.", "请写成例如 16G 或 512M。")
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
