//! Seed tasks as Self-Instruct has them (Wang et al., 2022): an `instruction`, and under `instances` an example of it with an
//! `input` that may be empty and an `output`.

use super::example::{Example, Kind, fault, needed, needed_text, text, wrong};
use super::{Format, Row, info};
use crate::entry::Entry;
use api::{Card, Problem, Text, data::Message};
use serde_json::{Value, json};

pub struct SelfInstruct;

const INSTANCES: &str = "instances";

impl Entry for SelfInstruct {
    fn card(&self) -> Card {
        Card {
            name: "self_instruct".into(),
            title: Text::new("Self-Instruct", "Self-Instruct"),
            help: Text::new(
                "Rows with an instruction and one instance of it: an input and an output.",
                "每行包含指令（instruction）和一个实例（instances）：输入与输出。",
            ),
            schema: json!({ "type": "object", "properties": {} }),
        }
    }
}

impl Format for SelfInstruct {
    fn kind(&self, _: &info::Entry) -> Kind {
        Kind::Instructions
    }

    fn example(&self, row: &Row, _: &info::Entry) -> Result<Example, Box<Problem>> {
        let instruction = needed_text(row, "instruction")?;
        let instance = match needed(row, INSTANCES)? {
            Value::Array(instances) if instances.len() > 1 => {
                let count = instances.len();
                return Err(fault(
                    "row_instances",
                    format!("it has {count} instances, and a row holds one conversation."),
                    format!("它有 {count} 个实例，而一行只容纳一段对话。"),
                ));
            }
            Value::Array(instances) => instances.first().and_then(Value::as_object),
            _ => None,
        };
        let instance = instance.ok_or_else(|| {
            wrong(
                INSTANCES,
                &row[INSTANCES],
                ["a list with one object of input and output", "含一个输入输出对象的列表"],
            )
        })?;
        let input = text(instance, "input")?.filter(|input| !input.is_empty());
        let question = input.map_or_else(|| instruction.to_string(), |input| format!("{instruction}\n{input}"));
        let answer = needed_text(instance, "output")?;
        let messages = vec![Message::new("user", question), Message::new("assistant", answer)];
        Ok(Example { messages, ..Example::default() })
    }

    fn recognise(&self, row: &Row) -> Option<Row> {
        let instances = row.get(INSTANCES)?.as_array()?;
        let is_seed = row.contains_key("instruction") && instances.iter().all(|one| one.get("output").is_some());
        is_seed.then(|| Row::from_iter([("formatting".to_string(), "self_instruct".into())]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::tests::{example_of, row};

    #[test]
    fn seed_tasks_are_recognised_and_read() {
        let seed = json!({"id": "a", "instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}]});
        let entry = SelfInstruct.recognise(&row(seed.clone())).unwrap();
        assert_eq!(entry["formatting"], "self_instruct");
        let read = |value: Value| example_of(&SelfInstruct, json!({}), value);
        let messages = read(seed).unwrap().messages;
        assert_eq!(messages, [Message::new("user", "Add.\n1 2"), Message::new("assistant", "3")]);
        let bare = read(json!({"instruction": "Sing.", "instances": [{"input": "", "output": "La"}]})).unwrap();
        assert_eq!(bare.messages[0].content, "Sing.");
        let code =
            |instances: Value| read(json!({"instruction": "x", "instances": instances})).map(|_| ()).unwrap_err().code;
        assert_eq!(code(json!([{"output": "1"}, {"output": "2"}])), "row_instances");
        assert_eq!(code(json!([])), "row_column_wrong");
        assert_eq!(code(json!([{"input": "1"}])), "row_column_missing");
        assert!(SelfInstruct.recognise(&row(json!({"instruction": "x", "output": "y"}))).is_none());
    }
}
