//! The tokenizer that a GGUF file carries in its metadata, made into the `tokenizer.json` that the model had.

use super::{
    gguf::Header,
    tokenizer::{ModelTokenizer, SpecialToken, built},
};
use crate::Result;
use api::Problem;
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// Kinds of tokens in `tokenizer.ggml.token_type`.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;
pub(super) const BYTE: i64 = 6;

/// Builds the tokenizer. Errors: kinds of tokenizers that can't be made exactly, names the kind.
pub fn open(path: &Path, header: &Header) -> Result<ModelTokenizer> {
    let tokens = header.texts(TOKENS).filter(|tokens| !tokens.is_empty()).ok_or_else(|| missing(path, TOKENS))?;
    if u32::try_from(tokens.len()).is_err() {
        return Err(missing(path, TOKENS));
    }
    let special = |name: &str| -> Option<SpecialToken> {
        let id = header.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        let text = tokens.get(usize::try_from(id).ok()?)?;
        Some((text.clone(), u32::try_from(id).ok()?))
    };
    let (bos, eos) = (special("bos"), special("eos"));
    let json = match header.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(path, header, tokens)?,
        Some("llama") => sentence_piece(path, header, tokens, special("unknown"))?,
        Some(other) => return Err(unsupported(path, "tokenizer.ggml.model", other)),
        None => return Err(missing(path, "tokenizer.ggml.model")),
    };
    // What llama.cpp takes when the key is absent.
    let usual = header.text("tokenizer.ggml.model") == Some("llama") || is_llama3(header);
    let add_bos = bos.is_some() && header.flag("tokenizer.ggml.add_bos_token").unwrap_or(usual);
    let add_eos = header.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);

    let mut json = json;
    json["version"] = json!("1.0");
    json["added_tokens"] = added_tokens(header, tokens);
    json["post_processor"] = post_processor(bos.as_ref().filter(|_| add_bos), eos.as_ref().filter(|_| add_eos));
    let tokenizer = built(json.to_string().as_bytes()).map_err(|error| {
        let shown = path.display();
        Problem::new(
            "bad_tokenizer",
            format!("{shown}: its tokenizer can't be built: {error}."),
            format!("{shown}：无法构建其分词器：{error}。"),
        )
        .hint(
            "Take another GGUF of this model, or its safetensors.",
            "请换一个该模型的 GGUF 文件，或其 safetensors 版本。",
        )
    })?;
    Ok(ModelTokenizer {
        tokenizer: Arc::new(tokenizer),
        pad: special("padding"),
        unk: special("unknown"),
        bos,
        eos,
        chat_template: header.text("tokenizer.chat_template").map(str::to_string),
        tool_template: header.text("tokenizer.chat_template.tool_use").map(str::to_string),
        add_bos,
    })
}

/// Byte-level BPE (GPT-2 and nearly all models since).
fn byte_level(path: &Path, header: &Header, tokens: &[String]) -> Result<Value> {
    let merges = header.texts("tokenizer.ggml.merges").ok_or_else(|| missing(path, "tokenizer.ggml.merges"))?;
    let merges: Vec<(&str, &str)> = merges.iter().filter_map(|merge| split_merge(merge)).collect();
    let pre = header.text("tokenizer.ggml.pre").unwrap_or("default");
    let splits = splits(pre).ok_or_else(|| unsupported(path, "tokenizer.ggml.pre", pre))?;
    let mut steps: Vec<Value> = splits
        .iter()
        .map(|regex| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false }))
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    steps.push(byte_level.clone());
    // Qwen's own tokenizer composes characters first; the GGUF has no word for it.
    let normalizer = if pre == "qwen2" { json!({ "type": "NFC" }) } else { Value::Null };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "vocab": vocabulary(tokens), "merges": merges,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3(header) || pre == "tekken",
        },
    }))
}

/// SentencePiece BPE with bytes for unknown characters (Llama 2, Mistral 7B, TinyLlama), as transformers makes it from
/// `tokenizer.model`: merges follow from the scores.
fn sentence_piece(path: &Path, header: &Header, tokens: &[String], unk: Option<SpecialToken>) -> Result<Value> {
    let key = "tokenizer.ggml.scores";
    let scores = header.floats(key).filter(|scores| scores.len() == tokens.len()).ok_or_else(|| missing(path, key))?;
    let kinds = header.ints("tokenizer.ggml.token_type").unwrap_or_default();
    let vocabulary = vocabulary(tokens);
    let merges = merges_from_scores(tokens, scores, kinds);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let prefix = header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unk = unk.or_else(|| {
        let at = kinds.iter().position(|kind| *kind == UNKNOWN)?;
        Some((tokens.get(at)?.clone(), u32::try_from(at).ok()?))
    });
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "vocab": vocabulary, "merges": merges, "unk_token": unk.map(|(text, _)| text),
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        },
    }))
}

/// Ids by token; of equal tokens the first counts.
fn vocabulary(tokens: &[String]) -> HashMap<&str, usize> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        ids.entry(token.as_str()).or_insert(id);
    }
    ids
}

/// Every way to make a token of two others, best token first, as SentencePiece prefers them. Equal scores go by the
/// longer left part, then the order of the vocabulary (transformers' `generate_merges`).
fn merges_from_scores<'a>(tokens: &'a [String], scores: &[f32], kinds: &[i64]) -> Vec<(&'a str, &'a str)> {
    let ids = vocabulary(tokens);
    // Special tokens are matched before the model sees the text; they are no parts.
    let normal = |id: usize| !matches!(kinds.get(id), Some(&(UNKNOWN | CONTROL | USER_DEFINED)));
    let mut merges = Vec::new();
    let longest = tokens.iter().map(|token| token.len()).max().unwrap_or(0).min(MAX_PIECE);
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate() {
        if !normal(id) || token.len() > longest || ids.get(token.as_str()) != Some(&id) {
            continue;
        }
        let mut ways: Vec<(usize, usize, &str, &str)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at(at);
                Some((*ids.get(left)?, *ids.get(right)?, left, right))
            })
            .collect();
        ways.sort_unstable();
        merges.extend(ways.into_iter().map(|(_, _, left, right)| (*score, left, right)));
    }
    merges.sort_by(|a, b| {
        let lengths = |way: &(f32, &str, &str)| Reverse((way.1.chars().count(), way.2.chars().count()));
        b.0.total_cmp(&a.0).then_with(|| lengths(a).cmp(&lengths(b)))
    });
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}

/// Bytes; longer tokens get no merges, so that one hostile token can't cost a square of the file's size.
const MAX_PIECE: usize = 1024;

/// `a b` at the first space that isn't the first letter.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let at = merge.get(first..)?.find(' ')? + first;
    Some((merge.get(..at)?, merge.get(at + 1..)?))
}

/// Tokens that are matched in the text before anything else.
fn added_tokens(header: &Header, tokens: &[String]) -> Value {
    let kinds = header.ints("tokenizer.ggml.token_type").unwrap_or_default();
    let mut seen = HashSet::new();
    let added = tokens.iter().zip(kinds).enumerate().filter(|(_, (token, kind))| {
        matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && !token.is_empty() && seen.insert(token.as_str())
    });
    added
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        })
        .collect()
}

/// Puts `bos` before and `eos` after a text that is encoded with special tokens.
fn post_processor(bos: Option<&SpecialToken>, eos: Option<&SpecialToken>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let template = |sequences: &[&str]| {
        let mut items = Vec::new();
        for (number, sequence) in sequences.iter().enumerate() {
            items.extend(bos.map(|(text, _)| json!({ "SpecialToken": { "id": text, "type_id": number } })));
            items.push(json!({ "Sequence": { "id": sequence, "type_id": number } }));
            items.extend(eos.map(|(text, _)| json!({ "SpecialToken": { "id": text, "type_id": number } })));
        }
        items
    };
    let mut special = serde_json::Map::new();
    for (text, id) in [bos, eos].into_iter().flatten() {
        special.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    json!({
        "type": "TemplateProcessing", "single": template(&["A"]), "pair": template(&["A", "B"]),
        "special_tokens": special,
    })
}

fn is_llama3(header: &Header) -> bool {
    matches!(header.text("tokenizer.ggml.pre"), Some("llama-bpe" | "llama3" | "llama-v3"))
}

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text falls into words before merging, by `tokenizer.ggml.pre`; the words of one expression go through the
/// next one.
fn splits(pre: &str) -> Option<&'static [&'static str]> {
    PRES.iter().find(|(names, _)| names.contains(&pre)).map(|(_, splits)| *splits)
}

/// The name for these expressions, which llama.cpp knows too.
pub(super) fn pre_of(splits: &[String]) -> Option<&'static str> {
    PRES.iter().find(|(_, own)| *own == splits).and_then(|(names, _)| names.first().copied())
}

/// Names with their expressions.
const PRES: [(&[&str], &[&str]); 5] = [
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"], &[r"\p{N}", GPT2]),
    (&["gpt-2", "gpt2", "phi-2", "olmo", "mpt", "jais", "default"], &[GPT2]),
    (&["llama-bpe", "llama3", "llama-v3"], &[LLAMA3]),
    (&["qwen2", "deepseek-r1-qwen", "megrez"], &[QWEN2]),
    (&["tekken"], &[TEKKEN]),
];

pub(super) fn missing(path: &Path, key: &str) -> crate::Error {
    let shown = path.display();
    Problem::new(
        "bad_tokenizer",
        format!("{shown} lacks {key} or has a wrong one."),
        format!("{shown} 缺少 {key} 或其内容有误。"),
    )
    .hint("Take another GGUF of this model.", "请换一个该模型的 GGUF 文件。")
    .into()
}

fn unsupported(path: &Path, key: &str, value: &str) -> crate::Error {
    let shown = path.display();
    Problem::new(
        "gguf_tokenizer",
        format!("{shown} has a tokenizer of a kind that can't be read ({key} = {value:?})."),
        format!("{shown} 的分词器类型无法读取（{key} = {value:?}）。"),
    )
    .hint("Take the model as safetensors, or another model.", "请使用该模型的 safetensors 版本，或换一个模型。")
    .into()
}
