//! Supervised fine-tuning: learn to answer as the rows do; only the answers have a loss.

use super::{NextToken, Objective, Stage};
use crate::{Result, data::Needs, entry::Entry};
use api::{Card, Problems, RunConfig, Text};
use serde_json::json;

pub struct Sft;

impl Entry for Sft {
    fn card(&self) -> Card {
        Card {
            name: "sft".into(),
            title: Text::new("Instructions", "指令"),
            help: Text::new("Learn to answer as the rows do (SFT).", "学会像样本那样回答（SFT）。"),
            schema: json!({"type": "object", "properties": {}}),
        }
    }
}

impl Stage for Sft {
    fn needs(&self) -> Needs {
        Needs::Instructions
    }

    fn trains_encoder_decoders(&self) -> bool {
        true
    }

    fn start(&self, _: &RunConfig) -> Result<Box<dyn Objective>, Problems> {
        Ok(Box::new(NextToken))
    }
}
