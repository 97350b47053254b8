//! Typed parameters out of the flat map. Each parameter is declared once, as a field of a struct with a doc comment, a
//! default and bounds; [`read`] checks a map against the schema of such a struct and reports every problem.

mod compute;
mod eval;
mod export;
mod groups;
mod ignored;
mod make;
mod optimizer;
mod quantization;

pub use compute::{COMPUTE_SWITCHES, ComputeType};
pub use eval::*;
pub use export::*;
pub use groups::*;
pub use ignored::ignored;
pub use make::*;
pub use optimizer::*;
pub use quantization::*;

use crate::{Problem, Problems, RunConfig};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Tuning types whose result is a whole model: `model_name_or_path` takes it. That of all others is an adapter.
pub const SAVES_MODEL: [&str; 2] = ["full", "freeze"];

/// JSON schema of a parameter struct.
pub fn schema<T: JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

/// The parameters of `T` in `config`; keys that are not `T`'s are left to others.
pub fn read<T: JsonSchema + DeserializeOwned>(config: &RunConfig) -> Result<T, Problems> {
    let schema = schema::<T>();
    let mut problems = Problems::default();
    let mut found = Map::new();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let Some(value) = config.get(key) else { continue };
        match coerce(key, value, property) {
            Ok(value) => {
                found.insert(key.clone(), value);
            }
            Err(problem) => problems.push(*problem),
        }
    }
    let value = problems.or(Value::Object(found))?;
    serde_json::from_value(value).map_err(|e| {
        let text = e.to_string();
        Problem::new("bad_parameter", text.clone(), text).into()
    })
}

/// Each property of a schema with its value in `config`, or its default. What doesn't fit is left out.
pub fn settled(config: &RunConfig, schema: &Value) -> Map<String, Value> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let value = |(key, property): (&String, &Value)| {
        let value = match config.get(key) {
            Some(value) => coerce(key, value, property).ok()?,
            None => property["default"].clone(),
        };
        Some((key.clone(), value))
    };
    properties.filter_map(value).collect()
}

/// A problem for each key that is no property of `schemas`, none of `more`, and not accepted without effect.
pub fn check_keys<'a>(config: &RunConfig, schemas: impl IntoIterator<Item = &'a Value>, more: &[&str]) -> Vec<Problem> {
    let ignored = ignored();
    let properties = schemas.into_iter().filter_map(|schema| schema["properties"].as_object());
    let mut known: Vec<&str> = properties.flat_map(|p| p.keys().map(String::as_str)).collect();
    known.extend(ignored.iter().map(|i| i.name.as_str()));
    known.extend(COMPUTE_SWITCHES.iter().map(|(name, _)| *name));
    known.extend(more);
    unknown_keys(config, known.iter().copied())
}

/// A problem for each key that nobody knows, naming the nearest known one.
fn unknown_keys<'a>(config: &RunConfig, known: impl Iterator<Item = &'a str> + Clone) -> Vec<Problem> {
    let unknown = config.keys().filter(|key| !known.clone().any(|k| k == *key));
    unknown
        .map(|key| {
            let nearest = known.clone().map(|k| (strsim::damerau_levenshtein(key, k), k)).min();
            let problem = Problem::new(
                "unknown_key",
                format!("{key} is not an argument of Lathe."),
                format!("{key} 不是 Lathe 的参数。"),
            );
            match nearest {
                Some((distance, name)) if distance <= 1 + key.len() / 3 => {
                    problem.hint(format!("Did you mean {name}?"), format!("是否想写 {name}？"))
                }
                _ => problem.hint(
                    "Take it out, or see `lathe catalog` for all arguments.",
                    "请删去它；`lathe catalog` 列出全部参数。",
                ),
            }
            .field(key)
        })
        .collect()
}

/// Types that a property's schema allows; `Option` fields are `["integer", "null"]`.
fn types(property: &Value) -> Vec<&str> {
    match &property["type"] {
        Value::String(s) => vec![s],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A value as the schema wants it: numbers written as text are numbers, a single word where a list is wanted is a list.
fn coerce(key: &str, value: &Value, property: &Value) -> Result<Value, Box<Problem>> {
    let wanted = types(property);
    let wants = |t: &str| wanted.contains(&t);
    let value = match value {
        Value::String(s) if wants("boolean") && matches!(s.to_ascii_lowercase().as_str(), "true" | "yes" | "on") => {
            true.into()
        }
        Value::String(s) if wants("boolean") && matches!(s.to_ascii_lowercase().as_str(), "false" | "no" | "off") => {
            false.into()
        }
        Value::String(s) if (wants("number") || wants("integer")) && !wants("string") => {
            serde_json::from_str::<Value>(s.trim()).ok().filter(Value::is_number).unwrap_or_else(|| value.clone())
        }
        // A list of texts, which may have commas and white space in them.
        Value::String(s) if wants("array") && property["texts"] == true => vec![s.clone()].into(),
        Value::String(s) if wants("object") && !wants("string") => {
            serde_json::from_str::<Value>(s.trim()).ok().filter(Value::is_object).unwrap_or_else(|| value.clone())
        }
        Value::String(s) if wants("array") => s
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(|s| item(s.into(), property))
            .collect::<Vec<_>>()
            .into(),
        Value::Array(items) if wants("array") => items.iter().map(|value| item(value.clone(), property)).collect(),
        Value::Number(_) if wants("array") => vec![value.clone()].into(),
        // A table is a list of its lines.
        Value::Object(entries) if wants("array") && !wants("object") => {
            entries.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().into()
        }
        Value::Bool(word) if wants("string") && !wants("boolean") => word.to_string().into(),
        Value::Array(items) if wants("string") && !wants("array") => items
            .iter()
            .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(",")
            .into(),
        Value::Number(n) if wants("string") => n.to_string().into(),
        other => other.clone(),
    };
    let value = match &value {
        Value::Number(n) if wants("integer") && !wants("number") => match n.as_f64() {
            Some(f) if f.fract() == 0.0 && !n.is_i64() && !n.is_u64() && f.abs() < 9e15 => Value::from(f as i64),
            _ => value,
        },
        _ => value,
    };
    let fits = match &value {
        Value::Null => wants("null"),
        Value::Bool(_) => wants("boolean"),
        Value::Number(n) if n.is_i64() || n.is_u64() => wants("integer") || wants("number"),
        Value::Number(_) => wants("number"),
        Value::String(_) => wants("string") || property.get("enum").is_some(),
        Value::Array(items) => {
            let fits = |item: &Value| match property["items"]["type"].as_str() {
                Some("number") => item.is_number(),
                Some("string") if property["texts"] == true => item.as_str().is_some_and(|text| !text.is_empty()),
                _ => true,
            };
            wants("array") && items.iter().all(fits)
        }
        Value::Object(_) => wants("object"),
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), |s| format!("{s:?}"));
    let problem = |en: String, zh: String| {
        Box::new(
            Problem::new("bad_value", format!("{key} is {shown}, {en}."), format!("{key} 为 {shown}，{zh}。"))
                .field(key),
        )
    };
    if let Some(all) = property["enum"].as_array()
        && !all.contains(&value)
    {
        let name = |v: &Value| v.as_str().map(str::to_owned).or_else(|| v.is_number().then(|| v.to_string()));
        let names = all.iter().filter_map(name).collect::<Vec<_>>().join(", ");
        return Err(problem(format!("must be one of {names}"), format!("应为以下之一：{names}")));
    }
    if !fits {
        let names = wanted.iter().filter(|t| **t != "null").copied().collect::<Vec<_>>().join(" or ");
        let zh = match names.as_str() {
            "integer" => "整数".into(),
            "number" => "数字".into(),
            "boolean" => "true 或 false".into(),
            "string" => "文本".into(),
            "array" if property["items"]["type"] == "number" => "数字列表，例如 0.7,0.3".into(),
            "array" if property["texts"] == true => "非空文本的列表".into(),
            "object" => "JSON 对象".into(),
            "array" => "列表".into(),
            _ => names.clone(),
        };
        let en = match names.as_str() {
            "boolean" => "true or false".into(),
            "array" if property["items"]["type"] == "number" => "array of numbers, for example 0.7,0.3".into(),
            "array" if property["texts"] == true => "array of texts that are not empty".into(),
            "object" => "JSON object".into(),
            _ => names,
        };
        return Err(problem(format!("must be {}{en}", article(&en)), format!("应为{zh}")));
    }
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| property[name].as_f64();
        let low = bound("minimum").filter(|low| number < *low).is_some()
            || bound("exclusiveMinimum").filter(|low| number <= *low).is_some();
        let high = bound("maximum").filter(|high| number > *high).is_some();
        if low || high {
            let (min, max) = (bound("minimum").or(bound("exclusiveMinimum")), bound("maximum"));
            return Err(match (min, max) {
                (Some(min), Some(max)) => {
                    problem(format!("must be {min} to {max}"), format!("应在 {min} 到 {max} 之间"))
                }
                (Some(min), None) => problem(format!("must be {min} or more"), format!("应不小于 {min}")),
                (_, Some(max)) => problem(format!("must be {max} or less"), format!("应不大于 {max}")),
                _ => problem("is out of range".into(), "超出范围".into()),
            });
        }
    }
    Ok(value)
}

/// An item of a list as the schema wants it.
fn item(value: Value, list: &Value) -> Value {
    let number = value.as_str().filter(|_| list["items"]["type"] == "number");
    number.and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_number).unwrap_or(value)
}

fn article(word: &str) -> &'static str {
    match word {
        "true or false" => "",
        _ if word.starts_with(['a', 'i']) => "an ",
        _ => "a ",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> RunConfig {
        serde_json::from_value(value).unwrap()
    }

    fn messages(value: Value) -> Vec<String> {
        read::<TrainParams>(&config(value)).err().unwrap_or_default().0.iter().map(|p| p.message.clone()).collect()
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let params: TrainParams = read(&RunConfig::default()).unwrap();
        assert_eq!(params.learning_rate, 5e-5);
        assert_eq!(params.per_device_train_batch_size, 8);
        assert_eq!(params.lr_scheduler_type, Schedule::Linear);
    }

    #[test]
    fn values_are_taken_as_people_write_them() {
        let params: TrainParams = read(&config(
            json!({"learning_rate": "1e-4", "num_train_epochs": 3, "seed": 7.0, "lr_scheduler_type": "cosine"}),
        ))
        .unwrap();
        assert_eq!((params.learning_rate, params.num_train_epochs, params.seed), (1e-4, 3.0, 7));
        for shares in [json!("0.7, 0.3"), json!([0.7, 0.3]), json!(["0.7", "0.3"])] {
            let data: DataParams = read(&config(json!({"interleave_probs": shares, "dataset": "a, b"}))).unwrap();
            assert_eq!((data.interleave_probs, data.dataset), (vec![0.7, 0.3], vec!["a".to_string(), "b".to_string()]));
        }
        let wrong = read::<DataParams>(&config(json!({"interleave_probs": "0.7,x"}))).unwrap_err();
        assert!(wrong.0[0].message.contains("an array of numbers"), "{wrong:?}");
    }

    #[test]
    fn lists_of_texts_keep_their_commas() {
        let read = |value| read::<GenerateParams>(&config(value)).map_err(|p| p.0[0].message.clone());
        let params = read(json!({"stop": "a, b", "early_stopping": true, "bad_words": ["x", " y"]})).unwrap();
        assert_eq!((params.stop, params.bad_words), (vec!["a, b".to_string()], vec!["x".to_string(), " y".into()]));
        assert_eq!(params.early_stopping, EarlyStopping::True);
        let params = read(json!({"early_stopping": "never", "response_format": r#"{"type": "json_object"}"#})).unwrap();
        assert_eq!(params.early_stopping, EarlyStopping::Never);
        assert_eq!(params.response_format, Some(json!({"type": "json_object"})));
        for (wrong, message) in [
            (json!({"stop": [""]}), "stop is [\"\"], must be an array of texts that are not empty."),
            (json!({"stop": [1]}), "stop is [1], must be an array of texts that are not empty."),
            (json!({"response_format": "x"}), "response_format is \"x\", must be a JSON object."),
            (json!({"early_stopping": "soon"}), "early_stopping is \"soon\", must be one of true, false, never."),
        ] {
            assert_eq!(read(wrong).unwrap_err(), message);
        }
    }

    #[test]
    fn every_problem_is_reported_with_its_number() {
        assert_eq!(
            messages(
                json!({"learning_rate": -1, "seed": "x", "lr_scheduler_type": "cosin", "gradient_accumulation_steps": 0})
            ),
            [
                "learning_rate is -1, must be 0 to 10.",
                "gradient_accumulation_steps is 0, must be 1 to 65536.",
                "lr_scheduler_type is \"cosin\", must be one of linear, cosine, constant, constant_with_warmup, cosine_with_restarts, polynomial, inverse_sqrt, cosine_with_min_lr, warmup_stable_decay.",
                "seed is \"x\", must be an integer.",
            ]
        );
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let problems = unknown_keys(&config(json!({"lora_rnk": 8, "zzzz": 1})), ["lora_rank", "seed"].into_iter());
        assert_eq!(problems[0].hint, "Did you mean lora_rank?");
        assert_eq!(problems[1].message, "zzzz is not an argument of Lathe.");
        let asked =
            config(json!({"seed": 1, "plot_loss": true, "bf16": true, "finetuning_type": "lora", "export_dir": "x"}));
        let problems = check_keys(&asked, [&schema::<GenerateParams>()], &["finetuning_type"]);
        assert_eq!(problems.iter().map(|p| p.field.as_deref()).collect::<Vec<_>>(), [Some("export_dir")]);
    }

    #[test]
    fn every_parameter_is_described_in_both_languages() {
        for schema in [
            schema::<ModelParams>(),
            schema::<DataParams>(),
            schema::<TrainParams>(),
            schema::<OutputParams>(),
            schema::<GenerateParams>(),
            schema::<ExportParams>(),
            schema::<MakeParams>(),
            schema::<EvalParams>(),
            schema::<OptimizerParams>(),
            schema::<QuantizationParams>(),
        ] {
            for (key, property) in schema["properties"].as_object().unwrap() {
                for path in ["/ui/label/en", "/ui/label/zh", "/ui/help_zh", "/description"] {
                    assert!(
                        property.pointer(path).and_then(Value::as_str).is_some_and(|s| !s.is_empty()),
                        "{key} lacks {path}"
                    );
                }
                let has_type = !types(property).is_empty() || property["enum"].is_array();
                assert!(has_type, "{key} takes nothing: {property}");
            }
        }
    }
}
