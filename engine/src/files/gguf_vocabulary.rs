//! A tokenizer as the metadata of a GGUF file, the other way round from [`gguf_tokenizer`](super::gguf_tokenizer).

use super::{
    ModelFiles,
    gguf::Value,
    gguf_tokenizer::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, pre_of},
    tokenizer::ModelTokenizer,
};
use crate::{Error, Result};
use api::Problem;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Special tokens with which the common templates end a turn.
const ENDS_OF_TURN: [&str; 4] = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"];
/// No merge makes such a token: it comes last.
const LAST: f32 = -1e6;

type Metadata = Vec<(String, Value)>;

impl ModelFiles {
    /// `tokenizer.…` of a GGUF of this model with so many rows in its embedding. Errors: kinds of tokenizers that GGUF has no
    /// word for.
    pub fn gguf_vocabulary(&self, rows: usize) -> Result<Metadata> {
        if let Some(header) = self.gguf.as_ref().filter(|_| !self.has_grown()) {
            let own = header.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer."));
            let mut own: Metadata = own.map(|(key, value)| (key.clone(), value.clone())).collect();
            own.sort_by(|a, b| a.0.cmp(&b.0));
            return Ok(own);
        }
        let made = self.tokenizer()?;
        let json = made.tokenizer.to_string(false).map_err(|error| Error::Internal(error.to_string()))?;
        let json = serde_json::from_str(&json).map_err(|error| Error::Internal(error.to_string()))?;
        Vocabulary { json, made, rows }.metadata()
    }
}

struct Vocabulary {
    /// `tokenizer.json`.
    json: Json,
    made: ModelTokenizer,
    rows: usize,
}

impl Vocabulary {
    fn metadata(&self) -> Result<Metadata> {
        let model = &self.json["model"];
        if model["type"] != "BPE" {
            return Err(unknown(&format!("model.type = {}", model["type"])).into());
        }
        let mut all = match self.regexes() {
            Some(regexes) => self.byte_level(&regexes)?,
            None if model["byte_fallback"] == true => self.sentence_piece(),
            None => return Err(unknown(&format!("pre_tokenizer = {}", self.json["pre_tokenizer"])).into()),
        };
        let special = [
            ("bos", &self.made.bos),
            ("eos", &self.made.eos),
            ("unknown", &self.made.unk),
            ("padding", &self.made.pad),
        ];
        let mut put = |key: &str, value: Value| all.push((format!("tokenizer.{key}"), value));
        for (name, (_, id)) in special.into_iter().filter_map(|(name, token)| Some((name, token.as_ref()?))) {
            put(&format!("ggml.{name}_token_id"), Value::Uint(u64::from(*id)));
        }
        if let Some(id) = ENDS_OF_TURN.iter().find_map(|word| self.made.tokenizer.token_to_id(word)) {
            put("ggml.eot_token_id", Value::Uint(u64::from(id)));
        }
        put("ggml.add_bos_token", Value::Bool(self.made.add_bos));
        if let Some(template) = &self.made.chat_template {
            put("chat_template", Value::Text(template.clone()));
        }
        if let Some(template) = &self.made.tool_template {
            put("chat_template.tool_use", Value::Text(template.clone()));
        }
        Ok(all)
    }

    fn byte_level(&self, regexes: &[String]) -> Result<Metadata> {
        let pre = pre_of(regexes).ok_or_else(|| unknown(&format!("pre_tokenizer = {regexes:?}")))?;
        let (tokens, kinds) = self.tokens(None);
        let merges = self.merges().map(|(a, b)| format!("{a} {b}")).collect();
        Ok(vec![
            text("tokenizer.ggml.model", "gpt2"),
            text("tokenizer.ggml.pre", pre),
            ("tokenizer.ggml.tokens".into(), Value::Texts(tokens)),
            ("tokenizer.ggml.token_type".into(), Value::Ints(kinds)),
            ("tokenizer.ggml.merges".into(), Value::Texts(merges)),
        ])
    }

    /// SentencePiece merges by scores: here those are the ranks of the merges.
    fn sentence_piece(&self) -> Metadata {
        let unk = self.json["model"]["unk_token"].as_str();
        let (tokens, kinds) = self.tokens(unk);
        let mut ranks = HashMap::new();
        for (rank, (a, b)) in self.merges().enumerate() {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
        let score = |token: &String| ranks.get(token).map_or(LAST, |rank| -(*rank as f32));
        let scores = tokens.iter().map(score).collect();
        let prefix = self.json["normalizer"].to_string().contains("\"Prepend\"")
            || matches!(self.json["pre_tokenizer"]["prepend_scheme"].as_str(), Some("first" | "always"));
        vec![
            text("tokenizer.ggml.model", "llama"),
            text("tokenizer.ggml.pre", "default"),
            ("tokenizer.ggml.tokens".into(), Value::Texts(tokens)),
            ("tokenizer.ggml.scores".into(), Value::Floats(scores)),
            ("tokenizer.ggml.token_type".into(), Value::Ints(kinds)),
            ("tokenizer.ggml.add_space_prefix".into(), Value::Bool(prefix)),
        ]
    }

    /// A token and its kind for each row of the embedding.
    fn tokens(&self, unk: Option<&str>) -> (Vec<String>, Vec<i64>) {
        let mut all: Vec<(String, i64)> = (0..self.rows).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
        let mut put = |id: Option<u64>, token: &str, kind: i64| {
            if let Some(slot) = id.and_then(|id| all.get_mut(usize::try_from(id).ok()?)) {
                *slot = (token.to_string(), kind);
            }
        };
        for (token, id) in self.json["model"]["vocab"].as_object().into_iter().flatten() {
            let kind = match unk {
                Some(unk) if unk == token => UNKNOWN,
                Some(_) if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') => BYTE,
                _ => NORMAL,
            };
            put(id.as_u64(), token, kind);
        }
        for added in self.json["added_tokens"].as_array().into_iter().flatten() {
            let token = added["content"].as_str().unwrap_or_default();
            let kind = match added["special"].as_bool() {
                _ if unk == Some(token) => UNKNOWN,
                Some(true) => CONTROL,
                _ => USER_DEFINED,
            };
            put(added["id"].as_u64(), token, kind);
        }
        all.into_iter().unzip()
    }

    fn merges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.json["model"]["merges"].as_array().into_iter().flatten().filter_map(|merge| match merge {
            Json::String(pair) => pair.split_once(' '),
            pair => Some((pair[0].as_str()?, pair[1].as_str()?)),
        })
    }

    /// The expressions that a text is split by, one after another, before bytes are merged; `None` if these aren't bytes.
    fn regexes(&self) -> Option<Vec<String>> {
        let pre = &self.json["pre_tokenizer"];
        let steps = match pre["pretokenizers"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(pre),
        };
        steps.iter().find(|step| step["type"] == "ByteLevel")?;
        let expression = |step: &Json| match step["type"].as_str() {
            Some("Split") => step["pattern"]["Regex"].as_str().map(str::to_string),
            Some("Digits") if step["individual_digits"] == true => Some(r"\p{N}".into()),
            // The one of GPT-2 is built in.
            Some("ByteLevel") if step["use_regex"] != false => Some(super::gguf_tokenizer::GPT2.into()),
            Some("ByteLevel") => None,
            other => Some(other.unwrap_or("unknown").into()),
        };
        Some(steps.iter().filter_map(expression).collect())
    }
}

fn text(key: &str, value: &str) -> (String, Value) {
    (key.into(), Value::Text(value.into()))
}

fn unknown(what: &str) -> Problem {
    let what: String = what.chars().take(200).collect();
    Problem::new(
        "gguf_no_tokenizer",
        format!("GGUF has no word for the tokenizer of this model ({what})."),
        format!("GGUF 无法表示此模型的分词器（{what}）。"),
    )
    .hint("Export it with export_format: hf.", "请使用 export_format: hf 导出。")
    .field("export_format")
}
