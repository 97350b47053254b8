//! Opening a Hugging Face folder.

use super::{
    Encoding, ModelFiles, Stored,
    grow::Growth,
    most_common,
    safetensors::read_header,
    source::Source,
    tokenizer::{read_json, wrong_file},
};
use crate::{Error, Result};
use api::Problem;
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The configuration of a folder, whose weights, if there are any, stay unread.
pub fn open_untrained(path: &Path) -> Result<ModelFiles> {
    let config_path = path.join("config.json");
    if !config_path.exists() {
        return Err(no_config(path));
    }
    let config = read_json(&config_path)?;
    let dtype = config["dtype"].as_str().or(config["torch_dtype"].as_str()).unwrap_or("bfloat16");
    let dtype = dtype.replace("bfloat", "bf").replace("float", "f");
    Ok(ModelFiles {
        path: path.to_path_buf(),
        config,
        sources: Vec::new(),
        tensors: BTreeMap::new(),
        dtype,
        gguf: None,
        growth: Growth::default(),
    })
}

/// Opens the folder and checks the headers of all its weight files; reads no weights.
pub fn open(path: &Path) -> Result<ModelFiles> {
    let config_path = path.join("config.json");
    if !config_path.exists() {
        return Err(no_config(path));
    }
    let config = read_json(&config_path)?;
    let index = path.join(INDEX);
    let (files, expected) = if path.join(SINGLE).exists() {
        (vec![SINGLE.to_string()], None)
    } else if index.exists() {
        let map = read_index(&index)?;
        let mut files: Vec<String> = map.values().cloned().collect();
        files.sort();
        files.dedup();
        (files, Some(map))
    } else {
        let files = loose_files(path)?;
        if files.is_empty() {
            return Err(no_weights(path)?.into());
        }
        (files, None)
    };
    let mut sources = Vec::new();
    let mut tensors = BTreeMap::new();
    for file in files {
        let file_path = path.join(&file);
        if !file_path.exists() {
            return Err(missing_shard(path, &file));
        }
        let source = Source::open(&file_path)?;
        for entry in read_header(&source)? {
            let stored = Stored {
                source: sources.len(),
                encoding: Encoding::Plain(entry.dtype),
                shape: entry.shape,
                offset: entry.offset,
                size: entry.size,
                permuted: None,
            };
            if tensors.insert(entry.name.clone(), stored).is_some() {
                return Err(wrong_file(&file_path, &format!("the tensor {} stands in two files", entry.name)));
            }
        }
        sources.push(source);
    }
    if let Some(name) = expected.and_then(|map| map.into_keys().find(|name| !tensors.contains_key(name))) {
        return Err(wrong_file(&index, &format!("no file has the tensor {name} that it lists")));
    }
    let tensors = match config["model_type"].as_str() {
        Some("gpt2" | "gpt_neox") => gpt_weights(tensors),
        _ => tensors,
    };
    let dtype = most_common(&tensors);
    let growth = Growth::default();
    Ok(ModelFiles { path: path.to_path_buf(), config, sources, tensors, dtype, gguf: None, growth })
}

/// The weights of GPT-2 and GPT-NeoX by today's names: their early files leave `transformer.` out, and hold masks and
/// frequencies, which are no weights.
fn gpt_weights(tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    let computed = ["attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"];
    let is_weight = |name: &String| !computed.iter().any(|end| name.ends_with(&format!(".{end}")));
    let today = |name: String| {
        let bare = ["h.", "wte.", "wpe.", "ln_f."].iter().any(|start| name.starts_with(start));
        if bare { format!("transformer.{name}") } else { name }
    };
    tensors.into_iter().filter(|(name, _)| is_weight(name)).map(|(name, stored)| (today(name), stored)).collect()
}

/// A problem if this is a file that is no model by itself: one that can hold code, or weights without their folder.
/// Nothing of it is read.
pub fn refuse_single_file(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if is_pickle(&name) {
        return Err(pickle(path).into());
    }
    if name.ends_with(".safetensors") || name.ends_with(".json") {
        let shown = path.display();
        return Err(Problem::new(
            "not_a_model",
            format!("{shown} is one file of a model."),
            format!("{shown} 只是模型中的一个文件。"),
        )
        .hint("Give the folder that it stands in.", "请填写它所在的文件夹。")
        .into());
    }
    Ok(())
}

/// The first file of a folder, by name, that can hold code.
pub(super) fn pickle_in(folder: &Path) -> Result<Option<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Leftovers of training that stand beside weights are nobody's weights.
        if is_pickle(&name) && !matches!(name.as_str(), "training_args.bin" | "optimizer.pt" | "scheduler.pt") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found.into_iter().next())
}

pub(super) fn pickle(path: &Path) -> Problem {
    let shown = path.display();
    Problem::new(
        "pickle",
        format!("{shown}: pickle formats are never loaded, since they can run code."),
        format!("{shown}：绝不加载 pickle 格式，因为其中可能含有代码。"),
    )
    .hint("Convert it to safetensors.", "请转换为 safetensors。")
}

fn is_pickle(name: &str) -> bool {
    let name = name.to_lowercase();
    [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"].iter().any(|ending| name.ends_with(ending))
}

/// Tensor name to file name. File names must be plain: nothing outside the folder is opened.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let index = read_json(path)?;
    let map = index["weight_map"].as_object().ok_or_else(|| wrong_file(path, "it has no weight_map"))?;
    let mut files = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().filter(|file| {
            let mut parts = Path::new(file).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && file.ends_with(".safetensors")
        });
        let file = file.ok_or_else(|| wrong_file(path, &format!("the file of {name} must be a .safetensors name")))?;
        files.insert(name.clone(), file.to_string());
    }
    Ok(files)
}

/// Weight files of a folder that has neither the usual file nor an index. Adapters are no models.
fn loose_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned();
        let sharded = name.contains("-of-");
        if name.ends_with(".safetensors") && !name.starts_with("adapter_") && !sharded {
            files.push(name);
        }
    }
    files.sort();
    Ok(files)
}

fn no_config(folder: &Path) -> Error {
    let shown = folder.display();
    let problem = Problem::new(
        "no_config",
        format!("{shown} has no config.json, so it is not a model folder."),
        format!("{shown} 中没有 config.json，不是模型文件夹。"),
    );
    let adapter = folder.join("adapter_config.json").exists();
    let gguf = std::fs::read_dir(folder).ok().and_then(|entries| {
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).min()
    });
    match (adapter, gguf) {
        (true, _) => problem.hint(
            "It is an adapter: give it as adapter_name_or_path, with its base model as model_name_or_path.",
            "这是适配器：请用 adapter_name_or_path 指定它，并用 model_name_or_path 指定其基座模型。",
        ),
        (_, Some(gguf)) => problem.hint(
            format!("Give the GGUF file itself: {}.", gguf.display()),
            format!("请直接指定 GGUF 文件：{}。", gguf.display()),
        ),
        _ => problem.hint("Choose the folder that has config.json.", "请选择包含 config.json 的文件夹。"),
    }
    .into()
}

fn no_weights(folder: &Path) -> Result<Problem> {
    if let Some(path) = pickle_in(folder)? {
        return Ok(pickle(&path));
    }
    let shown = folder.display();
    Ok(Problem::new(
        "no_weights",
        format!("{shown} has no weights: neither {SINGLE} nor {INDEX}."),
        format!("{shown} 没有权重：既没有 {SINGLE}，也没有 {INDEX}。"),
    )
    .hint("Download or copy the model again, with all its files.", "请重新下载或复制模型的全部文件。"))
}

fn missing_shard(folder: &Path, file: &str) -> Error {
    let shown = folder.display();
    Problem::new(
        "missing_shard",
        format!("{shown} lacks {file}, which {INDEX} lists."),
        format!("{shown} 缺少 {INDEX} 中列出的 {file}。"),
    )
    .hint("Download or copy the missing file.", "请下载或复制缺少的文件。")
    .into()
}
