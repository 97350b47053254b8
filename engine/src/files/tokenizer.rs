//! The tokenizer of a model with its special tokens and chat template.

use crate::{Error, Result};
use api::Problem;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokenizers::{AddedToken, Tokenizer};

/// A special token: its text and id.
pub type SpecialToken = (String, u32);

#[derive(Clone)]
pub struct ModelTokenizer {
    pub tokenizer: Arc<Tokenizer>,
    pub bos: Option<SpecialToken>,
    pub eos: Option<SpecialToken>,
    pub pad: Option<SpecialToken>,
    pub unk: Option<SpecialToken>,
    /// Jinja source.
    pub chat_template: Option<String>,
    /// The template named `tool_use`, which transformers takes for conversations with tools.
    pub tool_template: Option<String>,
    /// Plain text (pre-training, no chat template) begins with `bos`.
    pub add_bos: bool,
}

/// Files of a tokenizer are small; this is far above the largest (33 MB).
const MAX_FILE: u64 = 512 << 20;

impl ModelTokenizer {
    /// Opens the tokenizer of a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`; all but the first may be absent.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        check_exists(folder)?;
        let bytes = read_small(&path)?;
        let mut tokenizer = built(&bytes).map_err(|error| wrong_file(&path, &error))?;
        let config = read_json_if_there(&folder.join("tokenizer_config.json"))?;
        let map = read_json_if_there(&folder.join("special_tokens_map.json"))?;
        add_missing_tokens(&mut tokenizer, &config["added_tokens_decoder"], &path)?;
        // Truncation and padding are a matter of the caller.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| wrong_file(&path, &error.to_string()))?;

        let special = |key: &str| {
            let text = token_text(&config[key]).or_else(|| token_text(&map[key]))?;
            let id = tokenizer.token_to_id(&text)?;
            Some((text, id))
        };
        let (bos, eos) = (special("bos_token"), special("eos_token"));
        let (pad, unk) = (special("pad_token"), special("unk_token"));
        let add_bos = match config["add_bos_token"].as_bool() {
            Some(flag) => flag && bos.is_some(),
            None => begins_with_bos(&tokenizer, bos.as_ref()),
        };
        let template_file = folder.join("chat_template.jinja");
        let (chat_template, tool_template) = if template_file.exists() {
            let more = folder.join("additional_chat_templates/tool_use.jinja");
            (Some(read_text(&template_file)?), more.exists().then(|| read_text(&more)).transpose()?)
        } else {
            (chat_template(&config["chat_template"]), named_template(&config["chat_template"], "tool_use"))
        };
        Ok(Self { tokenizer: Arc::new(tokenizer), bos, eos, pad, unk, chat_template, tool_template, add_bos })
    }

    /// One more than the highest id: the rows that an embedding needs at least.
    pub fn rows(&self) -> u64 {
        let ids = self.tokenizer.get_vocab(true);
        ids.values().max().map_or(0, |id| u64::from(*id) + 1)
    }

    /// A problem if the tokenizer has ids that an embedding of `embedding` rows lacks.
    pub fn check_rows(&self, source: &Path, embedding: u64) -> Result<()> {
        let rows = self.rows();
        if rows <= embedding {
            return Ok(());
        }
        let shown = source.display();
        Err(Problem::new(
            "wrong_tokenizer",
            format!("{shown} has the wrong tokenizer: its ids need {rows} rows, the embedding has {embedding}."),
            format!("{shown} 的分词器不匹配：词表需要 {rows} 行，而嵌入矩阵只有 {embedding} 行。"),
        )
        .hint(
            "Take the tokenizer files from the same place as the weights, or train with resize_vocab.",
            "请使用与权重同一来源的分词器文件，或在训练时开启 resize_vocab。",
        )
        .into())
    }
}

/// The tokenizer that this JSON says, or why there is none: the library panics where merges don't fit the words.
pub(super) fn built(json: &[u8]) -> Result<Tokenizer, String> {
    match std::panic::catch_unwind(|| Tokenizer::from_bytes(json)) {
        Ok(built) => built.map_err(|error| error.to_string()),
        Err(_) => Err("its parts contradict each other".into()),
    }
}

/// A problem if the folder has no `tokenizer.json`.
pub(super) fn check_exists(folder: &Path) -> Result<()> {
    if folder.join("tokenizer.json").exists() { Ok(()) } else { Err(no_tokenizer(folder).into()) }
}

/// A file's bytes, refused when it is absurdly large.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, MAX_FILE)
}

fn read_text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_small(path)?).into_owned())
}

/// A file's bytes, refused when there are more than `most`.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if metadata.len() > most {
        let (shown, len) = (path.display(), metadata.len());
        return Err(Problem::new(
            "file_too_large",
            format!("{shown} has {len} bytes, {most} at most are read."),
            format!("{shown} 有 {len} 字节，最多读取 {most} 字节。"),
        )
        .hint("Check that it is the right file.", "请检查文件是否正确。")
        .into());
    }
    let mut bytes = Vec::new();
    // A pipe has no size.
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(Error::io(path))?;
    Ok(bytes)
}

/// A JSON file that must be there and hold an object.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let bytes = read_small(path)?;
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(wrong_file(path, "not a JSON object")),
        Err(error) => Err(wrong_file(path, &error.to_string())),
    }
}

/// As [`read_json`]; null if the file isn't there.
pub(super) fn read_json_if_there(path: &Path) -> Result<Value> {
    if path.exists() { read_json(path) } else { Ok(Value::Null) }
}

pub(super) fn wrong_file(path: &Path, why: &str) -> Error {
    let shown = path.display();
    Problem::new("bad_model_file", format!("{shown} can't be read: {why}."), format!("无法读取 {shown}：{why}。"))
        .hint("Download or copy the model again.", "请重新下载或复制模型。")
        .into()
}

/// A token of `tokenizer_config.json`: a string, or an object with `content`.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str())?;
    (!text.is_empty()).then(|| text.to_string())
}

/// A string, or a list of `{name, template}` from which `default` is taken.
fn chat_template(value: &Value) -> Option<String> {
    match value {
        Value::Array(items) => {
            named_template(value, "default").or_else(|| named_template(value, items.first()?["name"].as_str()?))
        }
        other => other.as_str().map(str::to_string),
    }
}

/// The template of this name in a list of `{name, template}`.
fn named_template(value: &Value, name: &str) -> Option<String> {
    let named = value.as_array()?.iter().find(|item| item["name"] == name)?;
    named["template"].as_str().map(str::to_string)
}

/// Tokens that only `tokenizer_config.json` knows, as transformers adds them.
fn add_missing_tokens(tokenizer: &mut Tokenizer, decoder: &Value, path: &Path) -> Result<()> {
    let Some(entries) = decoder.as_object() else { return Ok(()) };
    let mut missing: Vec<(u32, &Value)> = entries
        .iter()
        .filter_map(|(id, entry)| Some((id.parse().ok()?, entry)))
        .filter(|(_, entry)| entry["content"].as_str().is_some_and(|text| tokenizer.token_to_id(text).is_none()))
        .collect();
    missing.sort_by_key(|(id, _)| *id);
    for (id, entry) in missing {
        if tokenizer.get_vocab_size(true) != id as usize {
            // It would get another id than the one the model was trained with.
            continue;
        }
        let flag = |key: &str| entry[key].as_bool().unwrap_or(false);
        let token = AddedToken::from(entry["content"].as_str().unwrap_or_default(), flag("special"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .single_word(flag("single_word"))
            .normalized(flag("normalized"));
        tokenizer.add_tokens([token]).map_err(|error| wrong_file(path, &error.to_string()))?;
    }
    Ok(())
}

/// Whether the tokenizer itself puts `bos` first.
fn begins_with_bos(tokenizer: &Tokenizer, bos: Option<&SpecialToken>) -> bool {
    let Some((_, bos)) = bos else { return false };
    tokenizer.encode("a", true).is_ok_and(|encoding| encoding.get_ids().first() == Some(bos))
}

fn no_tokenizer(folder: &Path) -> Problem {
    let others: Vec<PathBuf> = ["tokenizer.model", "vocab.json", "spiece.model", "vocab.txt"]
        .iter()
        .map(|name| folder.join(name))
        .filter(|path| path.exists())
        .collect();
    let shown = folder.display();
    match others.first().and_then(|path| path.file_name()) {
        Some(other) => {
            let other = other.to_string_lossy();
            Problem::new(
                "no_tokenizer",
                format!("{shown} has no tokenizer.json, only {other}, which is not read."),
                format!("{shown} 没有 tokenizer.json，只有 {other}，无法读取。"),
            )
            .hint(
                "Save it with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…).",
                "请用 transformers 另存：AutoTokenizer.from_pretrained(…).save_pretrained(…)。",
            )
        }
        None => Problem::new(
            "no_tokenizer",
            format!("{shown} has no tokenizer.json."),
            format!("{shown} 没有 tokenizer.json。"),
        )
        .hint("Download or copy the model again, with all its files.", "请重新下载或复制模型的全部文件。"),
    }
}
