//! [`RunConfig`]: exactly what was asked, one flat map with LLaMA-Factory's argument names, in the order given.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RunConfig(pub Map<String, Value>);

impl RunConfig {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    /// A string argument, if present and not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str).filter(|s| !s.is_empty())
    }

    /// Whether an argument is true, also as a word.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| {
            value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("true")))
        })
    }

    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    pub fn remove(&mut self, key: &str) {
        self.0.shift_remove(key);
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Applies `key=value` words of the command line: a value that reads as JSON is that, anything else is text.
    pub fn set_word(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not key=value"))?;
        let value = match value {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            _ => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into())),
        };
        self.set(key.trim_start_matches("--"), value);
        Ok(())
    }

    /// The map as YAML, a key a line, that LLaMA-Factory and `lathe train` both read.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        for (key, value) in &self.0 {
            out.push_str(key);
            out.push_str(": ");
            out.push_str(&scalar(value));
            out.push('\n');
        }
        out
    }
}

/// JSON is YAML; plain words go without quotes, and numbers such as 1e-4 keep the point that YAML 1.1 readers want.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) if is_plain(s) => s.clone(),
        Value::Array(items) if items.iter().all(|i| i.as_str().is_some_and(is_plain)) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Value::Number(n) => {
            let text = n.to_string();
            match text.split_once('e') {
                Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
                _ => text,
            }
        }
        other => other.to_string(),
    }
}

fn is_plain(s: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && s.chars().all(word)
        && !reserved.contains(&s.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_typed_values() {
        let mut config = RunConfig::default();
        for word in ["learning_rate=1e-4", "dataset=a,b", "bf16=True", "lora_rank=8", "--seed=1"] {
            config.set_word(word).unwrap();
        }
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            r#"{"learning_rate":0.0001,"dataset":"a,b","bf16":true,"lora_rank":8,"seed":1}"#
        );
        assert!(config.set_word("rank").is_err());
    }

    #[test]
    fn yaml_has_one_key_a_line() {
        let mut config = RunConfig::default();
        config.set("model_name_or_path", "starter");
        config.set("learning_rate", 1e-7);
        config.set("dataset", serde_json::json!(["identity", "alpaca_en"]));
        config.set("system", "你好: \"x\"");
        config.set("template", "no");
        assert_eq!(
            config.to_yaml(),
            "model_name_or_path: starter\nlearning_rate: 1.0e-7\ndataset: identity,alpaca_en\nsystem: \"你好: \\\"x\\\"\"\ntemplate: \"no\"\n"
        );
    }
}
