//! Named entities in an answer: a JSON list of objects, an object of lists, or lines of `type: text`.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Precision, recall and F1 over all entities (micro-averaged, as seqeval does). An entity is its type and its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EntityScore {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// Entities of the labels.
    pub wanted: usize,
}

type Entities = BTreeMap<(String, String), usize>;

/// Of pairs of a prediction and its label; None if not even half of the labels list entities.
pub fn entity_score<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Option<EntityScore> {
    let (mut hits, mut given, mut wanted, mut rows, mut listing) = (0, 0, 0, 0, 0);
    for (prediction, label) in pairs {
        rows += 1;
        let Some(of_label) = entities(label) else { continue };
        listing += 1;
        let of_prediction = entities(prediction).unwrap_or_default();
        hits += of_prediction.iter().map(|(entity, n)| of_label.get(entity).map_or(0, |m| *m.min(n))).sum::<usize>();
        given += of_prediction.values().sum::<usize>();
        wanted += of_label.values().sum::<usize>();
    }
    if wanted == 0 || listing * 2 < rows {
        return None;
    }
    let share = |n: usize, of: usize| if of == 0 { 0.0 } else { n as f64 / of as f64 };
    Some(EntityScore {
        precision: share(hits, given),
        recall: share(hits, wanted),
        f1: share(2 * hits, given + wanted),
        wanted,
    })
}

/// Which entities a text lists, with how often; None if it lists none in a form that is known.
fn entities(text: &str) -> Option<Entities> {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or(text.strip_prefix("```")).map(|t| t.trim_end_matches("```").trim());
    let text = inner.unwrap_or(text);
    let mut found = Entities::new();
    let mut add = |kind: &str, name: &str| {
        *found.entry((kind.trim().to_lowercase(), name.trim().to_owned())).or_default() += 1;
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Array(all)) => {
            for one in &all {
                let field = |keys: [&str; 4]| keys.iter().find_map(|key| one.get(key)?.as_str());
                let kind = field(["type", "label", "entity_type", "entity_group"])?;
                add(kind, field(["text", "entity", "name", "word"])?);
            }
        }
        Ok(Value::Object(kinds)) => {
            for (kind, names) in &kinds {
                match names {
                    Value::Array(names) => names.iter().filter_map(Value::as_str).for_each(|name| add(kind, name)),
                    Value::String(name) => add(kind, name),
                    _ => return None,
                }
            }
        }
        Ok(_) => return None,
        Err(_) => {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let (kind, names) = line.split_once([':', '：'])?;
                if kind.split_whitespace().count() > 3 {
                    return None;
                }
                names
                    .split([',', '，', '、', ';', '；'])
                    .filter(|n| !n.trim().is_empty())
                    .for_each(|name| add(kind, name));
            }
        }
    }
    Some(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_counted_whatever_the_form() {
        let label = r#"[{"type": "PER", "text": "Ada"}, {"type": "LOC", "text": "London"}]"#;
        for (prediction, hits, given) in [
            (label, 2.0, 2.0),
            (r#"{"per": ["Ada", "Bob"], "loc": "London"}"#, 2.0, 3.0),
            ("PER: Ada, Ada\nLOC：Paris", 1.0, 3.0),
            ("```json\n[{\"label\": \"per\", \"word\": \"Ada\"}]\n```", 1.0, 1.0),
            ("I don't know.", 0.0, 0.0),
        ] {
            let score = entity_score([(prediction, label)].into_iter()).unwrap();
            assert_eq!(score.recall, hits / 2.0, "{prediction}");
            assert_eq!(score.f1, 2.0 * hits / (given + 2.0), "{prediction}");
        }
        assert_eq!(entity_score([("a", "A sentence.")].into_iter()), None);
    }
}
