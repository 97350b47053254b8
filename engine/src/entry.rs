//! What every registry's entries have in common: a card for people and programs, and being found by name.

use crate::Result;
use api::{Card, Problem};
use serde_json::{Map, Value, json};

/// One entry of a registry (a stage, a tuning type, a model family, a dataset format).
pub trait Entry: Sync {
    /// Name, title, help, and the schema of the parameters that it adds.
    fn card(&self) -> Card;
}

/// One schema with the properties of all, in their order: the card of an entry whose parameters are declared in several places.
pub fn joined(schemas: impl IntoIterator<Item = Value>) -> Value {
    let mut properties = Map::new();
    for schema in schemas {
        properties.extend(schema["properties"].as_object().cloned().unwrap_or_default());
    }
    json!({"type": "object", "properties": properties})
}

/// The entry of `all` with this name. `what` is the kind of thing in English and Chinese, `field` the argument that the
/// name was given for; an unknown name is a problem that lists the known ones.
pub fn find<T: Entry + ?Sized>(
    all: &'static [&'static T],
    what: [&str; 2],
    field: &str,
    name: &str,
) -> Result<&'static T> {
    if let Some(entry) = all.iter().find(|entry| entry.card().name == name) {
        return Ok(entry);
    }
    let known: Vec<String> = all.iter().map(|entry| entry.card().name).collect();
    Err(unknown("unknown_name", what, name, known.iter().map(String::as_str)).field(field).into())
}

/// The problem of a name that nobody knows: the nearest known one as the hint, or all of them when none is near.
pub fn unknown<'a>(code: &str, what: [&str; 2], name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let [en, zh] = what;
    let problem = Problem::new(code, format!("There is no {en} {name:?}."), format!("没有名为“{name}”的{zh}。"));
    let nearest =
        known.clone().map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k)).min();
    let mut all: Vec<&str> = known.take(SHOWN + 1).collect();
    if all.is_empty() {
        return problem.hint("There are none yet.", "目前一个也没有。");
    }
    if let Some((_, k)) = nearest.filter(|(d, _)| *d <= 1 + name.chars().count() / 3) {
        return problem.hint(format!("Did you mean {k}?"), format!("是否想写 {k}？"));
    }
    if all.len() > SHOWN {
        all[SHOWN] = "…";
    }
    problem.hint(format!("Known: {}.", all.join(", ")), format!("可用：{}。", all.join("、")))
}

/// How many known names a hint lists.
const SHOWN: usize = 24;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Named(&'static str);
    impl Entry for Named {
        fn card(&self) -> Card {
            Card {
                name: self.0.into(),
                title: Default::default(),
                help: Default::default(),
                schema: serde_json::json!({}),
            }
        }
    }
    static ALL: &[&dyn Entry] = &[&Named("llama"), &Named("qwen3")];

    #[test]
    fn unknown_names_get_the_nearest_or_all() {
        assert_eq!(find(ALL, ["family", "模型系列"], "family", "qwen3").unwrap().card().name, "qwen3");
        let near = find(ALL, ["family", "模型系列"], "family", "lama").err().unwrap().into_problem();
        assert_eq!(near.hint, "Did you mean llama?");
        assert_eq!(near.field.as_deref(), Some("family"));
        let far = find(ALL, ["family", "模型系列"], "family", "transformer").err().unwrap().into_problem();
        assert_eq!(far.hint, "Known: llama, qwen3.");
    }
}
