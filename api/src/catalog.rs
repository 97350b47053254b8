//! What there is to choose from. The form, the command line's help, the checks and the reference page all come from here.

use crate::job::validated;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A text in both languages of the studio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Text {
    pub en: String,
    pub zh: String,
}

impl Text {
    pub fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }

    /// The text in `language` (`zh…` or anything else for English).
    pub fn get(&self, language: &str) -> &str {
        if language.starts_with("zh") && !self.zh.is_empty() { &self.zh } else { &self.en }
    }
}

/// One entry of a registry: a stage, a tuning type, a model family, a dataset format, an export format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Card {
    /// The word in the configuration, for example `sft`.
    pub name: String,
    pub title: Text,
    pub help: Text,
    /// JSON schema of the parameters that this entry adds to the flat map.
    pub schema: Value,
}

/// A figure that runs tell at their steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricCard {
    /// As in `events.jsonl`, for example `rewards/margins`; of a validation, `eval_` stands before it.
    pub name: String,
    pub title: Text,
    /// What it is, in one line.
    pub help: Text,
    /// Which way it should go, where that is plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

impl MetricCard {
    /// Title and help each in English and Chinese.
    pub fn new(name: &str, [title, title_zh]: [&str; 2], [help, help_zh]: [&str; 2]) -> Self {
        Self { name: name.into(), title: Text::new(title, title_zh), help: Text::new(help, help_zh), better: None }
    }

    pub fn higher(self) -> Self {
        Self { better: Some(Better::Higher), ..self }
    }

    pub fn lower(self) -> Self {
        Self { better: Some(Better::Lower), ..self }
    }
}

/// Parameters that belong together and apply whatever the stage and tuning type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    pub name: String,
    pub title: Text,
    pub schema: Value,
}

/// A named set of values that fills the form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Preset {
    pub name: String,
    pub title: Text,
    pub help: Text,
    pub values: Map<String, Value>,
}

/// A LLaMA-Factory argument that is accepted and has no effect here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ignored {
    pub name: String,
    pub why: Text,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Catalog {
    pub version: String,
    /// Groups of a training run, in the order of the form.
    pub groups: Vec<Group>,
    pub stages: Vec<Card>,
    /// Tuning types, `finetuning_type`.
    pub adapters: Vec<Card>,
    pub families: Vec<Card>,
    /// Dataset formats, `formatting` in `dataset_info.json`.
    pub formats: Vec<Card>,
    pub exports: Vec<Card>,
    /// Names that `template` takes besides the model's own.
    pub templates: Vec<String>,
    pub presets: Vec<Preset>,
    /// Parameters of generation (chat).
    pub generation: Option<Group>,
    /// Parameters of an export job.
    pub export: Option<Group>,
    /// Parameters of a job that makes data, besides those of the model and of generation.
    #[serde(default)]
    pub make: Option<Group>,
    /// By stage, what its runs tell at their steps, in the order in which it is shown.
    #[serde(default)]
    pub metrics: BTreeMap<String, Vec<MetricCard>>,
    pub ignored: Vec<Ignored>,
}

impl Catalog {
    /// What is known of a metric that a run of this stage tells; of a validation's, what is known of the same in training.
    pub fn metric(&self, stage: &str, name: &str) -> Option<&MetricCard> {
        let plain = validated(name).unwrap_or(name);
        self.metrics.get(stage)?.iter().find(|card| card.name == plain)
    }

    /// Schema properties that apply to a run of this stage and tuning type, in the order of the form:
    /// `(group name, parameter name, property schema)`.
    pub fn properties<'a>(&'a self, stage: &str, adapter: &str) -> Vec<(&'a str, &'a str, &'a Value)> {
        let cards =
            self.stages.iter().filter(|c| c.name == stage).chain(self.adapters.iter().filter(|c| c.name == adapter));
        let mut found = Vec::new();
        for (name, schema) in
            self.groups.iter().map(|g| (g.name.as_str(), &g.schema)).chain(cards.map(|c| (c.name.as_str(), &c.schema)))
        {
            if let Some(properties) = schema["properties"].as_object() {
                found.extend(properties.iter().map(|(key, value)| (name, key.as_str(), value)));
            }
        }
        found
    }
}

/// The `ui` entry of a parameter's schema: its label in both languages, its help in Chinese (the English help is the
/// doc comment), and what happens when it goes up or down. `main` parameters stand open in the form.
pub fn ui(label: [&str; 2], help_zh: &str, hint: [&str; 2]) -> Value {
    json!({ "label": { "en": label[0], "zh": label[1] }, "help_zh": help_zh, "hint": { "en": hint[0], "zh": hint[1] } })
}

/// As [`ui`], for the few parameters that people do change: they stand open above the groups.
pub fn main_ui(label: [&str; 2], help_zh: &str, hint: [&str; 2]) -> Value {
    let mut value = ui(label, help_zh, hint);
    value["main"] = json!(true);
    value
}

/// As [`ui`], for parameters that have a place of their own in the form (model, data, method) and aren't drawn in a group.
pub fn placed_ui(label: [&str; 2], help_zh: &str) -> Value {
    let mut value = ui(label, help_zh, ["", ""]);
    value["placed"] = json!(true);
    value
}
