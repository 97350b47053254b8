//! Pre-training: learn to go on with plain text; every token has a loss.

use super::{NextToken, Objective, Stage};
use crate::{Result, data::Needs, entry::Entry};
use api::{Card, Problems, RunConfig, Text};
use serde_json::json;

pub struct Pt;

impl Entry for Pt {
    fn card(&self) -> Card {
        Card {
            name: "pt".into(),
            title: Text::new("Text", "文本"),
            help: Text::new("Learn to go on with plain text (pre-training).", "学习续写纯文本（预训练）。"),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Stage for Pt {
    fn needs(&self) -> Needs {
        Needs::Text
    }

    fn packs(&self) -> bool {
        true
    }

    fn start(&self, _: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        Ok(Box::new(NextToken))
    }
}
