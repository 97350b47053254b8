//! Answers that must be JSON, or JSON of a schema: tokens that would lead out of it can't be chosen. The grammar of a schema
//! and the tokens that it allows are llguidance's.

use super::text;
use crate::{Error, Result};
use api::Problem;
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokenizers::Tokenizer;

/// The format of one answer, which follows its tokens. A clone follows another answer.
pub struct Format {
    matcher: Matcher,
    /// Tokens of the answer that it has followed.
    seen: usize,
    eos: Arc<[u32]>,
}

impl Clone for Format {
    fn clone(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), seen: self.seen, eos: self.eos.clone() }
    }
}

impl Format {
    /// What `response_format` asks for; nothing if that is plain text.
    pub fn new(format: &Value, tokenizer: &Arc<Tokenizer>, eos: &Arc<[u32]>) -> Result<Option<Self>> {
        let mut schema = match format["type"].as_str() {
            Some("text") => return Ok(None),
            Some("json_object") => json!({"type": "object"}),
            Some("json_schema") => match &format["json_schema"]["schema"] {
                schema @ Value::Object(_) => schema.clone(),
                _ => return Err(no_schema().into()),
            },
            _ => return Err(unknown(&format["type"]).into()),
        };
        // Endless white space is JSON too, and what small models fall into.
        schema["x-guidance"] = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        let factory = factory(tokenizer, eos)?;
        let matcher = Matcher::new(factory.create_parser(TopLevelGrammar::from_json_schema(schema)));
        match matcher.get_error() {
            Some(reason) => Err(bad_schema(&reason).into()),
            None => Ok(Some(Self { matcher, seen: 0, eos: eos.clone() })),
        }
    }

    /// Takes out of the scores (vocab) all tokens that can't follow `said`.
    pub fn mask(&mut self, scores: &mut [f32], said: &[u32]) -> Result<()> {
        let broken = |error: &dyn std::fmt::Display| Error::from(bad_schema(&error.to_string()));
        for token in said.get(self.seen..).unwrap_or_default() {
            self.seen += 1;
            if !self.matcher.is_stopped() {
                self.matcher.consume_token(*token).map_err(|e| broken(&e))?;
            }
        }
        let allowed = self.matcher.compute_mask_or_eos().map_err(|e| broken(&e))?;
        let ends = self.eos.first().is_some_and(|eos| allowed.is_allowed(*eos));
        for (token, score) in scores.iter_mut().enumerate() {
            let token = token as u32;
            let fits = if self.eos.contains(&token) {
                ends
            } else {
                (token as usize) < allowed.len() && allowed.is_allowed(token)
            };
            if !fits {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

/// Compiled for each tokenizer once.
fn factory(tokenizer: &Arc<Tokenizer>, eos: &[u32]) -> Result<Arc<ParserFactory>> {
    static MADE: Mutex<Vec<(Weak<Tokenizer>, Arc<ParserFactory>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.retain(|(of, _)| of.strong_count() > 0);
    if let Some((_, factory)) = made.iter().find(|(of, _)| of.as_ptr() == Arc::as_ptr(tokenizer)) {
        return Ok(factory.clone());
    }
    let special = tokenizer.get_added_tokens_decoder();
    let word = |id: u32| match special.contains_key(&id) {
        true => [vec![TokTrie::SPECIAL_TOKEN_MARKER], text::bytes(tokenizer, id)].concat(),
        false => text::bytes(tokenizer, id),
    };
    let words: Vec<Vec<u8>> = (0..tokenizer.get_vocab_size(true) as u32).map(word).collect();
    let info = TokRxInfo::new(words.len() as u32, eos.first().copied().unwrap_or_default());
    let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| Error::Internal(e.to_string()))?;
    factory.quiet();
    let factory = Arc::new(factory);
    made.push((Arc::downgrade(tokenizer), factory.clone()));
    Ok(factory)
}

fn unknown(kind: &Value) -> Problem {
    Problem::new(
        "bad_format",
        format!("response_format has the type {kind}; text, json_object and json_schema are known."),
        format!("response_format 的 type 为 {kind}；可用的有 text、json_object 和 json_schema。"),
    )
    .hint("Write for example {\"type\": \"json_object\"}.", "例如写成 {\"type\": \"json_object\"}。")
    .field("response_format")
}

fn no_schema() -> Problem {
    Problem::new(
        "bad_format",
        "response_format of the type json_schema has no json_schema.schema.",
        "json_schema 类型的 response_format 缺少 json_schema.schema。",
    )
    .hint(
        "Give {\"type\": \"json_schema\", \"json_schema\": {\"name\": …, \"schema\": {…}}}.",
        "请给出 {\"type\": \"json_schema\", \"json_schema\": {\"name\": …, \"schema\": {…}}}。",
    )
    .field("response_format")
}

fn bad_schema(reason: &str) -> Problem {
    let reason = reason.trim().lines().next().unwrap_or_default();
    Problem::new(
        "bad_schema",
        format!("The schema of response_format can't be kept to: {reason}."),
        format!("无法按 response_format 的 schema 生成：{reason}。"),
    )
    .hint("Simplify the schema, or ask for json_object.", "请简化 schema，或改用 json_object。")
    .field("response_format")
}
