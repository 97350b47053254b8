//! A setting as a form draws it: one property of a catalog schema, and how its text becomes a value. All pure.

use crate::{format, i18n::Language};
use api::{Catalog, RunConfig, catalog::Text};
use serde_json::{Map, Value};

/// Settings that the form draws at a place of their own although their schema doesn't say so.
const PLACED: [&str; 1] = ["template"];

#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The argument's name.
    pub key: String,
    pub schema: Value,
}

/// Settings that are folded together.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    pub name: String,
    pub title: Text,
    pub settings: Vec<Setting>,
}

/// How a setting is entered.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Switch,
    /// On, off, or left to Lathe.
    MaybeSwitch,
    Choice(Vec<Value>),
    Number,
    /// Several words, separated by commas.
    Words,
    Text,
}

impl Setting {
    pub fn label(&self, language: Language) -> String {
        let name = if language == Language::Chinese { "/ui/label/zh" } else { "/ui/label/en" };
        self.at(name).unwrap_or(&self.key).to_owned()
    }

    pub fn help(&self, language: Language) -> String {
        let english = self.at("/description").unwrap_or_default();
        let help = if language == Language::Chinese { self.at("/ui/help_zh").unwrap_or(english) } else { english };
        help.to_owned()
    }

    /// What happens when it goes up or down.
    pub fn hint(&self, language: Language) -> String {
        let name = if language == Language::Chinese { "/ui/hint/zh" } else { "/ui/hint/en" };
        self.at(name).unwrap_or_default().to_owned()
    }

    pub fn unit(&self) -> Option<&str> {
        self.at("/unit")
    }

    pub fn default(&self) -> &Value {
        &self.schema["default"]
    }

    pub fn is_main(&self) -> bool {
        self.schema["ui"]["main"] == true
    }

    pub fn is_placed(&self) -> bool {
        self.schema["ui"]["placed"] == true || PLACED.contains(&self.key.as_str())
    }

    pub fn kind(&self) -> Kind {
        let types = self.types();
        let has = |t: &str| types.contains(&t);
        let choices = self.choices();
        if !choices.is_empty() {
            Kind::Choice(choices)
        } else if has("boolean") && has("string") {
            Kind::Text
        } else if has("boolean") {
            if has("null") { Kind::MaybeSwitch } else { Kind::Switch }
        } else if has("array") {
            if self.schema["texts"] == true { Kind::Text } else { Kind::Words }
        } else if (has("number") || has("integer")) && !has("string") {
            Kind::Number
        } else {
            Kind::Text
        }
    }

    /// The value that a text stands for. A text that isn't what the schema wants stays text: the check names it.
    pub fn parse(&self, text: &str) -> Value {
        let text = text.trim();
        if text.is_empty() {
            return Value::Null;
        }
        match self.kind() {
            Kind::Number => match serde_json::from_str::<Value>(&text.replace(',', "")) {
                Ok(value @ Value::Number(_)) => value,
                _ => text.into(),
            },
            Kind::Words => text.split([',', '，']).map(str::trim).filter(|w| !w.is_empty()).collect(),
            Kind::Text if self.types().contains(&"boolean") && matches!(text, "true" | "false") => {
                (text == "true").into()
            }
            _ => text.into(),
        }
    }

    /// A value as the field shows it.
    pub fn show(&self, value: &Value) -> String {
        match value {
            Value::Null => String::new(),
            Value::String(s) => s.clone(),
            Value::Number(n) if n.is_f64() => n.as_f64().map(format::number).unwrap_or_default(),
            Value::Array(all) => all
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        }
    }

    /// True if every word of `query` is in its name, label or help, in either language.
    pub fn matches(&self, query: &str) -> bool {
        let mut text = self.key.clone();
        for language in [Language::English, Language::Chinese] {
            for part in [self.label(language), self.help(language), self.hint(language)] {
                text.push(' ');
                text.push_str(&part);
            }
        }
        let text = text.to_lowercase();
        query.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }

    fn at(&self, pointer: &str) -> Option<&str> {
        self.schema.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
    }

    fn types(&self) -> Vec<&str> {
        match &self.schema["type"] {
            Value::String(s) => vec![s],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// `enum`, or the constants of a `oneOf` (variants with a doc comment of their own).
    /// The default stands first.
    fn choices(&self) -> Vec<Value> {
        if let Some(all) = self.schema["enum"].as_array() {
            return all.clone();
        }
        let variants = self.schema["oneOf"].as_array().or(self.schema["anyOf"].as_array()).into_iter().flatten();
        let constants = |v: &Value| match (&v["const"], v["enum"].as_array()) {
            (_, Some(all)) => all.clone(),
            (Value::Null, None) if v["type"] == "null" => vec![Value::Null],
            (Value::Null, None) => Vec::new(),
            (constant, None) => vec![constant.clone()],
        };
        let mut all: Vec<Value> = variants.flat_map(constants).collect();
        all.sort_by_key(|v| v != self.default());
        all
    }
}

/// The settings of a schema, in its order.
pub fn settings(schema: &Value) -> Vec<Setting> {
    let properties = schema["properties"].as_object();
    properties.into_iter().flatten().map(|(key, schema)| Setting { key: key.clone(), schema: schema.clone() }).collect()
}

/// Everything that a run of this stage and tuning type can set, by section: the tuning type's and the stage's own first.
pub fn sections(catalog: &Catalog, stage: &str, adapter: &str) -> Vec<Section> {
    let adapter = catalog.adapters.iter().filter(|c| c.name == adapter);
    let stage = catalog.stages.iter().filter(|c| c.name == stage);
    let cards = adapter.chain(stage).map(|c| (&c.name, &c.title, &c.schema));
    let groups = catalog.groups.iter().map(|g| (&g.name, &g.title, &g.schema));
    cards
        .chain(groups)
        .map(|(name, title, schema)| Section { name: name.clone(), title: title.clone(), settings: settings(schema) })
        .collect()
}

/// What of `values` differs from the defaults. `keep` names what is written even so; keys that no setting knows stay.
pub fn differing(values: &RunConfig, settings: &[Setting], keep: &[&str]) -> RunConfig {
    let mut out = Map::new();
    let kept = keep.iter().filter_map(|key| values.get(key).map(|value| (key.to_string(), value.clone())));
    out.extend(kept);
    for (key, value) in &values.0 {
        let setting = settings.iter().find(|s| s.key == *key);
        let is_default = match setting {
            Some(setting) => same(value, setting.default()),
            None => value.is_null(),
        };
        if !is_default && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
    RunConfig(out)
}

/// Equal as a person means it: `3` and `3.0`, nothing and an empty list.
pub fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(all) => all.is_empty(),
        _ => false,
    };
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b || (empty(a) && empty(b)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use api::params::{self, DataParams, ModelParams, OutputParams, TrainParams};
    use serde_json::json;

    fn all() -> Vec<Setting> {
        [
            params::schema::<ModelParams>(),
            params::schema::<DataParams>(),
            params::schema::<TrainParams>(),
            params::schema::<OutputParams>(),
        ]
        .iter()
        .flat_map(settings)
        .collect()
    }

    fn one(key: &str) -> Setting {
        all().into_iter().find(|s| s.key == key).unwrap()
    }

    #[test]
    fn kinds_follow_the_schema() {
        assert_eq!(one("learning_rate").kind(), Kind::Number);
        assert_eq!(one("max_samples").kind(), Kind::Number);
        assert_eq!(one("train_on_prompt").kind(), Kind::Switch);
        assert_eq!(one("packing").kind(), Kind::MaybeSwitch);
        assert_eq!(one("eval_dataset").kind(), Kind::Words);
        assert_eq!(one("run_name").kind(), Kind::Text);
        assert_eq!(one("resume_from_checkpoint").kind(), Kind::Text);
        let Kind::Choice(names) = one("rope_scaling").kind() else { panic!() };
        assert_eq!(names, ["model", "linear", "dynamic", "yarn", "llama3"]);
        let Kind::Choice(names) = one("lr_scheduler_type").kind() else { panic!() };
        assert_eq!(names.len(), 9);
    }

    #[test]
    fn texts_become_values_and_come_back() {
        let rate = one("learning_rate");
        assert_eq!(rate.parse("1e-4"), json!(1e-4));
        assert_eq!(rate.parse("fast"), json!("fast"));
        assert_eq!(rate.show(&json!(1e-4)), "1e-4");
        assert_eq!(one("cutoff_len").parse("2,048"), json!(2048));
        assert_eq!(one("eval_dataset").parse("a, b,"), json!(["a", "b"]));
        assert_eq!(one("run_name").parse(" 7 "), json!("7"));
        assert_eq!(one("resume_from_checkpoint").parse("true"), json!(true));
        assert_eq!(one("max_samples").parse(""), Value::Null);
    }

    #[test]
    fn only_what_differs_is_written() {
        let mut values = RunConfig::default();
        values.set("model_name_or_path", "starter");
        values.set("stage", "sft");
        values.set("num_train_epochs", 3);
        values.set("learning_rate", 1e-4);
        values.set("dataset", json!([]));
        values.set("max_samples", Value::Null);
        values.set("bf16", true);
        let config = differing(&values, &all(), &["stage", "model_name_or_path", "finetuning_type"]);
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"stage":"sft","model_name_or_path":"starter","learning_rate":0.0001,"bf16":true}"#
        );
    }

    #[test]
    fn settings_are_found_in_both_languages() {
        let rate = one("learning_rate");
        assert!(rate.matches("Rate size") && rate.matches("学习率") && rate.matches("learning_r"));
        assert!(!rate.matches("epochs"));
    }

    #[test]
    fn sections_put_the_method_first_and_leave_other_methods_out() {
        let card = |name: &str| api::Card {
            name: name.into(),
            title: Text::new(name, name),
            help: Text::default(),
            schema: json!({"properties": {format!("{name}_x"): {"type": "integer"}}}),
        };
        let catalog = Catalog {
            stages: vec![card("pt"), card("sft")],
            adapters: vec![card("lora"), card("full")],
            groups: vec![api::catalog::Group {
                name: "train".into(),
                title: Text::default(),
                schema: params::schema::<TrainParams>(),
            }],
            ..Catalog::default()
        };
        let names: Vec<String> = sections(&catalog, "sft", "lora").into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["lora", "sft", "train"]);
    }
}
