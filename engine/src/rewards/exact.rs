//! 1 for an answer that is the row's, but for spaces around it; 0 otherwise. Where the answer stands between `<answer>` tags
//! or in `\boxed{}`, what stands there counts.

use super::{Attempt, Reward, Scorer, each, hit};
use crate::{Result, entry::Entry};
use api::{Card, Problems, RunConfig, Text};
use serde_json::json;
use std::sync::atomic::AtomicBool;

pub struct Exact;

impl Entry for Exact {
    fn card(&self) -> Card {
        Card {
            name: "exact".into(),
            title: Text::new("Exact match", "完全一致"),
            help: Text::new("1 if the answer is the row's.", "回答与样本一致时为 1。"),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Reward for Exact {
    fn needs_reference(&self) -> bool {
        true
    }

    fn start(&self, _: &RunConfig) -> Result<Box<dyn Scorer>, Problems> {
        Ok(Box::new(Same))
    }
}

struct Same;

impl Scorer for Same {
    fn score(&mut self, attempts: &[Attempt], _: &AtomicBool) -> Result<Vec<Option<f64>>> {
        each(attempts, |attempt| hit(attempt.reference.as_deref().is_some_and(|r| said(&attempt.text) == said(r))))
    }
}

/// What an answer comes to: the last that stands between `<answer>` tags or in `\boxed{}`, or all of it.
pub(super) fn said(text: &str) -> &str {
    let tagged = text.rsplit_once("<answer>").map(|(_, rest)| rest.split("</answer>").next().unwrap_or(rest));
    let text = tagged.unwrap_or(text);
    text.rsplit_once("\\boxed{").and_then(|(_, rest)| within_braces(rest)).unwrap_or(text).trim()
}

/// Up to the brace that closes what was opened before.
fn within_braces(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..i]);
        }
    }
    None
}
