//! A whole model as a Hugging Face folder, written tensor by tensor.

use super::{
    ModelFiles, atomic, disk,
    shard::{self, Planned},
    tokenizer::read_json_if_there,
};
use crate::{Error, Result};
use api::Problem;
use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files that say how text becomes ids; copied as they are.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
];

/// What the families call the embedding, and the head.
pub(super) const EMBEDDINGS: [&str; 5] = [
    "model.embed_tokens.weight",
    "model.tok_embeddings.weight",
    "gpt_neox.embed_in.weight",
    "transformer.wte.weight",
    "shared.weight",
];
const HEADS: [&str; 3] = ["lm_head.weight", "output.weight", "embed_out.weight"];

/// Whether a weight has a row for each token.
pub fn is_vocabulary(name: &str) -> bool {
    EMBEDDINGS.contains(&name) || HEADS.contains(&name)
}

/// A weight by its Hugging Face name, with its shape.
pub type Weight = (String, Vec<usize>);

/// The weights that stand in `files`.
pub fn stored(files: &ModelFiles) -> Result<Vec<Weight>> {
    files.names().map(|name| Ok((name.to_string(), files.shape(name)?))).collect()
}

/// The type to write a model of `files` in: its own, or bfloat16 if that is a quantised one.
pub fn storage_type(files: &ModelFiles) -> DType {
    match files.dtype() {
        "f32" | "f64" => DType::F32,
        "f16" => DType::F16,
        _ => DType::BF16,
    }
}

/// Writes a model with the configuration and tokenizer of `files` as the folder `dir`: `weights` in `dtype` (float32,
/// float16 or bfloat16), in shards of `shard_bytes` at most (a larger tensor gets its own). `tensors` gives the
/// (merged) tensor of a name; one is held at a time. `progress` hears bytes done and in all. Answers the files written.
///
/// Nothing stands under `dir` before all of it is written and flushed. An earlier export there is replaced; a folder
/// with anything else in it is refused.
pub fn write_model(
    dir: impl AsRef<Path>,
    files: &ModelFiles,
    weights: &[Weight],
    shard_bytes: u64,
    dtype: DType,
    tensors: impl FnMut(&str) -> Result<Tensor>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<PathBuf>> {
    let dir = std::path::absolute(dir.as_ref()).map_err(Error::io(dir.as_ref()))?;
    placed(&dir, files.path(), |folder| {
        write_into(folder, files, weights, shard_bytes, dtype, tensors, progress)?;
        write_tokenizer(folder, files)
    })?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&dir).map_err(Error::io(&dir))? {
        paths.push(entry.map_err(Error::io(&dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Makes the folder `dir` of an export of `model`: `fill` is given an empty one beside it, which takes the place of `dir` when
/// it has succeeded. An earlier export there is replaced; a folder with anything else in it is refused.
pub fn placed(dir: &Path, model: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check_place(dir, model)?;
    atomic::clear_beside(dir);
    let folder = atomic::folder_beside(dir)?;
    let written = fill(&folder).and_then(|()| atomic::replace_dir(&folder, dir));
    if written.is_err() {
        // The first error is the one to tell; a leftover is only litter.
        let _ = disk::remove_dir(&folder);
    }
    written
}

/// As [`write_model`], into the existing folder `dir` (a run's, a checkpoint that is being made) and without the
/// tokenizer. Each file appears whole; other files of the folder stay.
pub fn write_into(
    dir: impl AsRef<Path>,
    files: &ModelFiles,
    weights: &[Weight],
    shard_bytes: u64,
    dtype: DType,
    mut tensors: impl FnMut(&str) -> Result<Tensor>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let dir = dir.as_ref();
    let shards = plan(files, weights, shard_bytes, dtype);
    let total = shards.iter().flatten().map(Planned::size).sum();
    let mut done = 0;
    let mut weight_map = Map::new();
    progress(done, total);
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_string(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        weight_map.extend(shard.iter().map(|planned| (planned.name.clone(), json!(name))));
        shard::write(&dir.join(&name), shard, |planned| {
            let tensor = tensors(&planned.name)?;
            done += planned.size();
            progress(done, total);
            Ok(tensor)
        })?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
    }
    write_config(dir, files, dtype)
}

/// Writes the tokenizer's files into the existing folder `dir`: copies, or for GGUF made from its metadata.
pub fn write_tokenizer(dir: impl AsRef<Path>, files: &ModelFiles) -> Result<()> {
    let (dir, from) = (dir.as_ref(), files.tokenizer_folder());
    if files.format() == "gguf" && from == files.path() {
        return write_made_tokenizer(dir, files);
    }
    for name in TOKENIZER_FILES {
        copy_if_there(&from.join(name), &dir.join(name))?;
    }
    files.write_added_tokens(dir)
}

/// What goes into which file.
fn plan(files: &ModelFiles, weights: &[Weight], shard_bytes: u64, dtype: DType) -> Vec<Vec<Planned>> {
    let tied = files.config()["tie_word_embeddings"].as_bool().unwrap_or(false)
        && weights.iter().any(|(name, _)| EMBEDDINGS.contains(&name.as_str()));
    let mut shards: Vec<Vec<Planned>> = vec![Vec::new()];
    let mut size = 0_u64;
    for (name, shape) in weights {
        // Tied: transformers takes the embedding. Frequencies are computed; only old checkpoints store them.
        if (tied && HEADS.contains(&name.as_str())) || name.ends_with(".rotary_emb.inv_freq") {
            continue;
        }
        let planned = Planned { name: name.clone(), dtype, shape: shape.clone() };
        let with_this = size.saturating_add(planned.size());
        match shards.last_mut() {
            Some(shard) if shard.is_empty() || with_this <= shard_bytes => {
                size = with_this;
                shard.push(planned);
            }
            _ => {
                size = planned.size();
                shards.push(vec![planned]);
            }
        }
    }
    shards
}

fn write_config(folder: &Path, files: &ModelFiles, dtype: DType) -> Result<()> {
    let name = match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        _ => "bfloat16",
    };
    let mut config = files.config().clone();
    if let Some(config) = config.as_object_mut() {
        // A path of this machine is nobody's business, and the weights are not quantised any more.
        config.shift_remove("_name_or_path");
        config.shift_remove("quantization_config");
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), json!(name));
    }
    write_json(&folder.join("config.json"), &config)?;
    if files.format() == "gguf" {
        let mut generation = Map::new();
        for key in ["bos_token_id", "pad_token_id"] {
            if let Some(id) = files.config().get(key) {
                generation.insert(key.into(), id.clone());
            }
        }
        let eos = match files.generation_eos().as_slice() {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        generation.extend(eos.map(|eos| ("eos_token_id".to_string(), eos)));
        return write_json(&folder.join("generation_config.json"), &Value::Object(generation));
    }
    copy_if_there(&files.path().join("generation_config.json"), &folder.join("generation_config.json"))
}

/// `tokenizer.json` and what belongs to it, for a tokenizer that had no files.
fn write_made_tokenizer(dir: &Path, files: &ModelFiles) -> Result<()> {
    let made = files.tokenizer()?;
    let json = made.tokenizer.to_string(true).map_err(|error| Error::Internal(error.to_string()))?;
    write_file(&dir.join("tokenizer.json"), json.as_bytes())?;
    let mut special = Map::new();
    for (key, token) in
        [("bos_token", &made.bos), ("eos_token", &made.eos), ("pad_token", &made.pad), ("unk_token", &made.unk)]
    {
        if let Some((text, _)) = token {
            special.insert(key.into(), json!(text));
        }
    }
    write_json(&dir.join("special_tokens_map.json"), &Value::Object(special.clone()))?;
    let mut config = special;
    // The class that takes tokenizer.json as it stands; named ones rebuild parts of it.
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    config.insert("add_bos_token".into(), json!(made.add_bos));
    config.insert("model_max_length".into(), files.config()["max_position_embeddings"].clone());
    if let Some(template) = &made.chat_template {
        config.insert("chat_template".into(), json!(template));
        write_file(&dir.join("chat_template.jinja"), template.as_bytes())?;
    }
    write_json(&dir.join("tokenizer_config.json"), &Value::Object(config))
}

/// Refuses a place that holds anything but an earlier export: it would be deleted.
fn check_place(dir: &Path, model: &Path) -> Result<()> {
    let shown = dir.display();
    let refuse = |en: String, zh: String| -> Result<()> {
        let problem = Problem::new("export_place", en, zh).field("export_dir");
        Err(problem.hint("Choose a new folder.", "请选择一个新文件夹。").into())
    };
    let same = |path: &Path| matches!((path.canonicalize(), dir.canonicalize()), (Ok(a), Ok(b)) if a.starts_with(&b));
    if dir.file_name().is_none() || same(model) {
        return refuse(
            format!("{shown} can't be the place of the export: the model itself stands there."),
            format!("{shown} 不能作为导出位置：模型本身就在那里。"),
        );
    }
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = TOKENIZER_FILES.contains(&name.as_str())
            || matches!(name.as_str(), "config.json" | "generation_config.json" | "model.safetensors.index.json")
            || matches!(name.as_str(), "Modelfile" | "README.md" | "verification.json" | "adapter_config.json")
            || matches!(name.as_str(), "model.gguf" | "adapter.gguf" | "adapter_model.safetensors")
            || (name.starts_with("model") && name.ends_with(".safetensors"));
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return refuse(
                format!("{shown} holds {name}, which is not of an earlier export and would be deleted."),
                format!("{shown} 中有 {name}，它不属于之前的导出，导出会将其删除。"),
            );
        }
    }
    Ok(())
}

fn copy_if_there(from: &Path, to: &Path) -> Result<()> {
    // Not `fs::copy`: that takes over read-only permissions of a cache, too.
    match fs::read(from) {
        Ok(bytes) => write_file(to, &bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(from)(error)),
    }
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    text.push('\n');
    write_file(path, text.as_bytes())
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic::write_atomically(path, bytes)
}

/// Whether a chat template comes with the model; cheap, for lists.
pub(super) fn has_template(files: &ModelFiles) -> bool {
    match &files.gguf {
        Some(header) => header.text("tokenizer.chat_template").is_some(),
        None => {
            files.path().join("chat_template.jinja").exists()
                || read_json_if_there(&files.path().join("tokenizer_config.json"))
                    .is_ok_and(|config| !config["chat_template"].is_null())
        }
    }
}
