//! Models by name: `starter`, a path, a name in the data folder, a hub id in the Hugging Face cache.

use super::{ModelFiles, export::has_template};
use crate::{Places, Result};
use api::{Problem, model::ModelInfo};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub const STARTER: &str = "starter";

/// The folder or `.gguf` file that `name` stands for. Looks at no weights; opens no connection.
pub fn locate(name: &str, places: &Places) -> Result<PathBuf> {
    let name = name.trim();
    if name == STARTER {
        return Ok(places.models().join(STARTER));
    }
    let given = PathBuf::from(name);
    if !name.is_empty() && (given.is_dir() || given.is_file()) {
        return Ok(given);
    }
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 && parts.iter().all(|part| is_plain(part)) {
        for file in [name.to_string(), format!("{name}.gguf")] {
            let path = places.models().join(file);
            if path.exists() {
                return Ok(path);
            }
        }
        let cached = places.hub_cache.join(format!("models--{}", parts.join("--")));
        if cached.is_dir() {
            return snapshot(&cached, name);
        }
    }
    Err(unknown(name, parts.len() == 2 && parts.iter().all(|part| is_plain(part))))
}

/// Every model here: the starter, the data folder's, the hub cache's. One that can't be used has its problem.
/// Reads configurations and headers, no weights.
pub fn list(places: &Places) -> Vec<ModelInfo> {
    let mut models = Vec::new();
    let starter = places.models().join(STARTER);
    if starter.exists() {
        models.push(describe(STARTER, "starter", Ok(starter)));
    }
    for (name, path) in entries(&places.models()) {
        let is_model = path.is_dir() || name.to_lowercase().ends_with(".gguf");
        if is_model && name != STARTER && !name.starts_with('.') {
            models.push(describe(&name, "home", Ok(path)));
        }
    }
    for (name, path) in entries(&places.hub_cache) {
        if let Some(id) = name.strip_prefix("models--") {
            let id = id.replacen("--", "/", 1);
            models.push(describe(&id, "hub", snapshot(&path, &id)));
        }
    }
    models
}

/// What is known of one model; `problem` says why it can't be used.
pub fn describe(name: &str, source: &str, path: Result<PathBuf>) -> ModelInfo {
    let info = ModelInfo { name: name.into(), source: source.into(), ..ModelInfo::default() };
    let files = match path.and_then(ModelFiles::open) {
        Ok(files) => files,
        Err(error) => return ModelInfo { problem: Some(error.into_problem()), ..info },
    };
    let config = files.config();
    ModelInfo {
        format: files.format().into(),
        family: config["model_type"].as_str().unwrap_or_default().into(),
        parameters: files.parameters(),
        bytes: files.bytes(),
        dtype: files.dtype().into(),
        context: config["max_position_embeddings"].as_u64().unwrap_or_default(),
        has_template: has_template(&files),
        problem: files.check_tokenizer_exists().err().map(crate::Error::into_problem),
        ..info
    }
}

/// One part of a name or hub id: nothing that leaves a folder.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    !part.is_empty() && part.len() <= 200 && !part.starts_with('.') && part.chars().all(allowed)
}

/// The snapshot of `main` in a cached repository (`refs/main` holds the commit), or the only snapshot there is.
fn snapshot(cached: &Path, id: &str) -> Result<PathBuf> {
    let snapshots = cached.join("snapshots");
    if let Ok(commit) = fs::read_to_string(cached.join("refs").join("main")) {
        let commit = commit.trim();
        let path = snapshots.join(commit);
        if is_plain(commit) && path.is_dir() {
            return Ok(path);
        }
    }
    match entries(&snapshots).as_slice() {
        [(_, only)] if only.is_dir() => Ok(only.clone()),
        _ => {
            let shown = cached.display();
            Err(Problem::new(
                "incomplete_model",
                format!("The model {id} is not complete in the hub cache ({shown})."),
                format!("模型 {id} 在 hub 缓存中不完整（{shown}）。"),
            )
            .hint(format!("Fetch it: lathe models pull {id}"), format!("请获取：lathe models pull {id}"))
            .into())
        }
    }
}

/// Names and paths in a folder, sorted; none if it can't be read.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| entry.ok())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    found.sort();
    found
}

fn unknown(name: &str, hub_id: bool) -> crate::Error {
    let problem = Problem::new(
        "unknown_model",
        format!("There is no model {name:?} on this computer."),
        format!("本机没有模型 {name:?}。"),
    )
    .field("model_name_or_path");
    if hub_id {
        problem.hint(
            format!("Fetch it with `lathe models pull {name}`, or check the path."),
            format!("请用 `lathe models pull {name}` 获取，或检查路径。"),
        )
    } else {
        problem.hint(
            "Give `starter`, a hub id (fetch it with `lathe models pull ID`), a folder or a .gguf file.",
            "请填写 `starter`、hub 模型 ID（用 `lathe models pull ID` 获取）、文件夹或 .gguf 文件。",
        )
    }
    .into()
}
