//! Alpaca rows: an instruction with an optional input, and the answer; with `ranking` a better and a worse answer; without
//! an answer column, plain text.

use super::example::{self, Example, Kind, needed, needed_text, text};
use super::{Answer, Format, Row, info};
use crate::entry::Entry;
use api::{Card, Problem, Text, data::Message};
use serde_json::{Value, json};
use std::ops::Range;

pub struct Alpaca;

impl Entry for Alpaca {
    fn card(&self) -> Card {
        Card {
            name: "alpaca".into(),
            title: Text::new("Alpaca", "Alpaca"),
            help: Text::new(
                "Rows with an instruction, an optional input and an output.",
                "每行包含指令（instruction）、可选的输入（input）和输出（output）。",
            ),
            schema: json!({ "type": "object", "properties": {} }),
        }
    }
}

impl Format for Alpaca {
    fn kind(&self, dataset: &info::Entry) -> Kind {
        let columns = &dataset.columns;
        let lines = matches!(&dataset.source, info::Source::File(file) if file.to_lowercase().ends_with(".txt"));
        if dataset.ranking {
            Kind::Preferences
        } else if columns.kto_tag.is_some() {
            Kind::Kto
        } else if columns.response.is_none() || lines {
            Kind::Text
        } else {
            Kind::Instructions
        }
    }

    fn example(&self, row: &Row, dataset: &info::Entry) -> Result<Example, Box<Problem>> {
        let columns = &dataset.columns;
        let kind = self.kind(dataset);
        let prompt = columns.prompt.as_deref().unwrap_or("instruction");
        if kind == Kind::Text {
            let text = needed_text(row, text_column(row, columns))?;
            return Ok(Example { text: Some(text.to_string()), ..Example::default() });
        }
        let mut messages = Vec::new();
        if let Some(system) = optional(row, &columns.system)? {
            messages.push(Message::new("system", system));
        }
        if let Some(column) = &columns.history {
            messages.extend(history(row, column)?);
        }
        let question = [Some(needed_text(row, prompt)?), optional(row, &columns.query)?];
        let question: Vec<&str> = question.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        messages.push(Message::new("user", question.join("\n")));
        let mut example = Example { messages, ..Example::default() };
        if let Some(column) = &columns.tools {
            example.tools = example::tools(row, column)?;
        }
        if kind == Kind::Preferences {
            let answer = |column: &Option<String>, default: &str| {
                needed_text(row, column.as_deref().unwrap_or(default)).map(|text| Some(Message::new("assistant", text)))
            };
            example.chosen = answer(&columns.chosen, "chosen")?;
            example.rejected = answer(&columns.rejected, "rejected")?;
            return Ok(example);
        }
        let response = needed_text(row, columns.response.as_deref().unwrap_or("output"))?;
        example.messages.push(Message::new("assistant", response));
        example.desirable = desirable(row, columns)?;
        Ok(example)
    }

    fn recognise(&self, row: &Row) -> Option<Row> {
        let has = |column: &str| row.get(column).is_some_and(Value::is_string);
        let first = |names: &[&str]| names.iter().copied().find(|name| has(name)).map(str::to_string);
        let prompt = first(&["instruction", "prompt", "question", "query"]);
        let response = first(&["output", "response", "answer", "completion", "target"]);
        let mut columns = Row::new();
        let mut set = |key: &str, column: Option<String>| {
            if let Some(column) = column {
                columns.insert(key.into(), column.into());
            }
        };
        let mut entry = Row::new();
        match (prompt, response) {
            (Some(prompt), _) if has("chosen") && has("rejected") => {
                entry.insert("ranking".into(), true.into());
                set("prompt", Some(prompt));
                set("query", first(&["input"]));
                set("chosen", Some("chosen".into()));
                set("rejected", Some("rejected".into()));
                set("system", first(&["system"]));
            }
            (Some(prompt), Some(response)) => {
                let query = first(&["input"]);
                let label = ["label", "kto_tag"].into_iter().find(|c| row.get(*c).is_some_and(Value::is_boolean));
                let extra = ["history", "system", "tools"].into_iter().filter(|c| row.contains_key(*c)).count();
                if label.is_none() && extra == 0 && prompt == "instruction" && response == "output" {
                    // Exactly LLaMA-Factory's defaults: nothing to say.
                    return Some(entry);
                }
                set("prompt", Some(prompt));
                set("query", query);
                set("response", Some(response));
                set("history", row.get("history").is_some_and(Value::is_array).then(|| "history".into()));
                set("system", first(&["system"]));
                set("tools", row.contains_key("tools").then(|| "tools".into()));
                set("kto_tag", label.map(str::to_string));
            }
            // Pairs under `input` and `output` alone.
            (None, Some(response)) if has("input") => {
                set("prompt", Some("input".into()));
                set("response", Some(response));
            }
            _ => {
                let column = first(&["text", "content", "raw_content"])?;
                set("prompt", Some(column));
            }
        }
        entry.insert("columns".into(), Value::Object(columns));
        Some(entry)
    }

    fn row(&self, example: &Example) -> Result<Row, Box<Problem>> {
        let mut row = Row::new();
        let mut set = |column: &str, text: &str| row.insert(column.into(), text.into());
        if let Some(text) = &example.text {
            set("text", text);
            return Ok(row);
        }
        let mut messages = example.messages.as_slice();
        let mut system = None;
        if let Some((first, rest)) = messages.split_first().filter(|(first, _)| first.role == "system") {
            (system, messages) = (Some(first.content.as_str()), rest);
        }
        if let Some(other) = messages.iter().find(|m| !matches!(m.role.as_str(), "user" | "assistant")) {
            return Err(no_place(&other.role));
        }
        let (pairs, rest) = messages.as_chunks::<2>();
        let (question, answer, pairs) = match (rest, pairs.split_last()) {
            // The answers are in columns of their own.
            ([question], _) => (question, None, pairs),
            (_, Some(([question, answer], pairs))) => (question, Some(answer), pairs),
            (_, None) => return Err(example::fault("row_empty", "it has no messages.".into(), "没有消息。".into())),
        };
        set("instruction", &question.content);
        set("input", "");
        for (column, message) in
            [("output", answer), ("chosen", example.chosen.as_ref()), ("rejected", example.rejected.as_ref())]
        {
            if let Some(message) = message {
                set(column, &message.content);
            }
        }
        if let Some(system) = system {
            set("system", system);
        }
        if !pairs.is_empty() {
            let pairs: Value =
                pairs.iter().map(|[question, answer]| json!([question.content, answer.content])).collect();
            row.insert("history".into(), pairs);
        }
        if let Some(tools) = &example.tools {
            row.insert("tools".into(), example::plain_tools(tools));
        }
        if let Some(desirable) = example.desirable {
            row.insert("kto_tag".into(), desirable.into());
        }
        Ok(row)
    }

    fn with_answer(&self, row: &Row, dataset: &info::Entry, answer: Answer, text: &str) -> Option<Row> {
        let columns = &dataset.columns;
        let column = match answer {
            Answer::Last if self.kind(dataset) == Kind::Text => text_column(row, columns),
            Answer::Last => columns.response.as_deref().unwrap_or("output"),
            Answer::Chosen => columns.chosen.as_deref().unwrap_or("chosen"),
            Answer::Rejected => columns.rejected.as_deref().unwrap_or("rejected"),
        };
        let mut row = row.clone();
        row.insert(column.into(), text.into());
        Some(row)
    }

    fn with_turns(&self, row: &Row, dataset: &info::Entry, turns: Range<usize>) -> Option<Row> {
        let columns = &dataset.columns;
        let column = columns.history.as_deref()?;
        let mut history = row.get(column)?.as_array()?.clone();
        let is_last = turns.end > history.len();
        history.truncate(turns.end);
        let mut row = row.clone();
        if !is_last {
            let last = history.pop()?;
            let [question, answer] = last.as_array()?.as_slice() else { return None };
            row.insert(columns.prompt.clone().unwrap_or_else(|| "instruction".into()), question.clone());
            row.insert(columns.response.clone().unwrap_or_else(|| "output".into()), answer.clone());
            if let Some(query) = columns.query.as_ref().and_then(|column| row.get_mut(column)) {
                *query = "".into();
            }
        }
        row.insert(column.into(), history.split_off(turns.start).into());
        Some(row)
    }
}

/// The column of plain text. The rows of a .txt file have this one, whatever the entry says.
fn text_column<'a>(row: &Row, columns: &'a info::Columns) -> &'a str {
    let prompt = columns.prompt.as_deref().unwrap_or("instruction");
    if row.contains_key(prompt) || !row.contains_key("text") { prompt } else { "text" }
}

/// The problem of a message that Alpaca's columns can't hold.
fn no_place(role: &str) -> Box<Problem> {
    let problem = Problem::new(
        "row_not_alpaca",
        format!("Alpaca's columns have no place for a message of role {role:?}."),
        format!("Alpaca 的列无法容纳角色为“{role}”的消息。"),
    );
    Box::new(problem.hint("Take sharegpt or openai instead.", "请改用 sharegpt 或 openai。"))
}

/// The label of KTO rows.
pub(super) fn desirable(row: &Row, columns: &info::Columns) -> Result<Option<bool>, Box<Problem>> {
    let Some(column) = &columns.kto_tag else { return Ok(None) };
    let value = needed(row, column)?;
    value.as_bool().map(Some).ok_or_else(|| example::wrong(column, value, ["true or false", "true 或 false"]))
}

/// The text of a column that the dataset may have and the row may lack; empty is none.
pub(super) fn optional<'a>(row: &'a Row, column: &Option<String>) -> Result<Option<&'a str>, Box<Problem>> {
    match column {
        Some(column) => Ok(text(row, column)?.filter(|text| !text.is_empty())),
        None => Ok(None),
    }
}

/// Earlier turns: a list of pairs of question and answer.
fn history(row: &Row, column: &str) -> Result<Vec<Message>, Box<Problem>> {
    let wanted = ["a list of [question, answer] pairs", "[提问, 回答] 组成的列表"];
    let pairs = match row.get(column) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(pairs)) => pairs,
        Some(other) => return Err(example::wrong(column, other, wanted)),
    };
    let mut messages = Vec::new();
    for pair in pairs {
        match pair.as_array().map(Vec::as_slice) {
            Some([Value::String(question), Value::String(answer)]) => {
                messages.push(Message::new("user", question.as_str()));
                messages.push(Message::new("assistant", answer.as_str()));
            }
            _ => return Err(example::wrong(column, pair, wanted)),
        }
    }
    Ok(messages)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{example_of, row};
    use super::*;

    fn read(entry: Value, value: Value) -> Result<Example, Box<Problem>> {
        example_of(&Alpaca, entry, value)
    }

    #[test]
    fn instruction_and_input_are_joined() {
        let example = read(json!({}), json!({"instruction": "Add", "input": "1 2", "output": "3"})).unwrap();
        assert_eq!(example.messages, [Message::new("user", "Add\n1 2"), Message::new("assistant", "3")]);
        let example = read(json!({}), json!({"instruction": "", "input": "only", "output": "3"})).unwrap();
        assert_eq!(example.messages[0].content, "only");
    }

    #[test]
    fn history_and_system_come_first() {
        let columns = json!({"columns": {"prompt": "q", "response": "a", "history": "h", "system": "s"}});
        let example = read(columns.clone(), json!({"q": "3", "a": "4", "h": [["1", "2"]], "s": "be brief"})).unwrap();
        let found: Vec<_> = example.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        let wanted = [("system", "be brief"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")];
        assert_eq!(found, wanted);
        let fault = read(columns, json!({"q": "3", "a": "4", "h": [["1"]]})).unwrap_err();
        assert_eq!(fault.code, "row_column_wrong");
    }

    #[test]
    fn missing_and_wrong_columns_are_named() {
        let fault = read(json!({}), json!({"instruction": "x"})).unwrap_err();
        assert_eq!(fault.message, "column \"output\" is missing; found: instruction.");
        let fault = read(json!({}), json!({"instruction": 3, "output": "x"})).unwrap_err();
        assert_eq!(fault.message, "column \"instruction\" is 3, not a text.");
    }

    #[test]
    fn text_preferences_and_kto_are_told_apart() {
        let text = read(json!({"columns": {"prompt": "body"}}), json!({"body": "hello"})).unwrap();
        assert_eq!(text.text.as_deref(), Some("hello"));
        let pair = read(json!({"ranking": true}), json!({"instruction": "x", "chosen": "a", "rejected": "b"})).unwrap();
        assert_eq!(pair.rejected, Some(Message::new("assistant", "b")));
        let kto = json!({"columns": {"prompt": "p", "response": "r", "kto_tag": "label"}});
        assert_eq!(read(kto.clone(), json!({"p": "x", "r": "y", "label": false})).unwrap().desirable, Some(false));
        assert!(read(kto, json!({"p": "x", "r": "y", "label": "no"})).is_err());
    }

    #[test]
    fn columns_are_recognised() {
        let entry = |value| Alpaca.recognise(&row(value)).map(Value::Object);
        assert_eq!(entry(json!({"instruction": "a", "input": "", "output": "b"})), Some(json!({})));
        assert_eq!(
            entry(json!({"question": "a", "answer": "b"})),
            Some(json!({"columns": {"prompt": "question", "response": "answer"}}))
        );
        assert_eq!(entry(json!({"text": "a"})), Some(json!({"columns": {"prompt": "text"}})));
        assert_eq!(entry(json!({"id": 3})), None);
    }
}
