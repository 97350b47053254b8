//! ShareGPT rows: a list of messages with roles; and OpenAI's, which are the same with other words and `tool_calls`.

use super::alpaca::{desirable, optional};
use super::example::{self, Example, Kind, check_turns, fault, function_calls, needed, to_values};
use super::{Answer, Format, Row, info};
use crate::entry::Entry;
use api::{Card, Problem, Text, data::Message};
use serde_json::{Value, json};
use std::ops::Range;

pub struct ShareGpt;
pub struct OpenAi;

impl Entry for ShareGpt {
    fn card(&self) -> Card {
        Card {
            name: "sharegpt".into(),
            title: Text::new("ShareGPT", "ShareGPT"),
            help: Text::new(
                "Rows with a list of messages (from, value): human, gpt, function_call, observation, system.",
                "每行是消息列表（from、value）：human、gpt、function_call、observation、system。",
            ),
            schema: json!({ "type": "object", "properties": {} }),
        }
    }
}

impl Entry for OpenAi {
    fn card(&self) -> Card {
        Card {
            name: "openai".into(),
            title: Text::new("OpenAI messages", "OpenAI 消息"),
            help: Text::new(
                "Rows with a list of messages (role, content): system, user, assistant, tool.",
                "每行是消息列表（role、content）：system、user、assistant、tool。",
            ),
            schema: json!({ "type": "object", "properties": {} }),
        }
    }
}

impl Format for ShareGpt {
    fn kind(&self, dataset: &info::Entry) -> Kind {
        if dataset.ranking {
            Kind::Preferences
        } else if dataset.columns.kto_tag.is_some() {
            Kind::Kto
        } else {
            Kind::Instructions
        }
    }

    fn example(&self, row: &Row, dataset: &info::Entry) -> Result<Example, Box<Problem>> {
        let columns = &dataset.columns;
        let column = messages_of(columns);
        let value = needed(row, column)?;
        let list = value.as_array().ok_or_else(|| example::wrong(column, value, ["a list of messages", "消息列表"]))?;
        let mut messages = Vec::with_capacity(list.len() + 1);
        for (i, value) in list.iter().enumerate() {
            let message = message(value, &dataset.tags).map_err(|problem| at_message(*problem, i + 1))?;
            messages.push(message);
        }
        let system = optional(row, &columns.system)?;
        if let (Some(system), false) = (system, messages.first().is_some_and(|m| m.role == "system")) {
            messages.insert(0, Message::new("system", system));
        }
        if messages.first().is_some_and(|m| m.role == "system" && m.content.is_empty()) {
            messages.remove(0);
        }
        check_turns(&messages, dataset.ranking)?;
        let mut example = Example { messages, desirable: desirable(row, columns)?, ..Example::default() };
        if let Some(column) = &columns.tools {
            example.tools = example::tools(row, column)?;
        }
        if dataset.ranking {
            let answer = |column: &Option<String>, default: &str| {
                let column = column.as_deref().unwrap_or(default);
                match needed(row, column)? {
                    Value::String(text) => Ok(Some(Message::new("assistant", text.as_str()))),
                    value => message(value, &dataset.tags).map(Some),
                }
            };
            example.chosen = answer(&columns.chosen, "chosen")?;
            example.rejected = answer(&columns.rejected, "rejected")?;
        }
        Ok(example)
    }

    fn recognise(&self, row: &Row) -> Option<Row> {
        recognise(row, "from", "value").map(|(column, mut columns)| {
            let mut entry = Row::new();
            entry.insert("formatting".into(), "sharegpt".into());
            add_preferences(row, &mut entry, &mut columns);
            if column != "conversations" || columns.len() > 1 || row.contains_key("system") {
                entry.insert("columns".into(), Value::Object(columns));
            }
            entry
        })
    }

    fn row(&self, example: &Example) -> Result<Row, Box<Problem>> {
        let of = |message: &Message| {
            let from = match message.role.as_str() {
                "user" => "human",
                "assistant" => "gpt",
                "tool" => "observation",
                "function" => "function_call",
                other => other,
            };
            json!({ "from": from, "value": message.content })
        };
        written(example, "conversations", &|messages| messages.iter().map(of).collect(), example::plain_tools)
    }

    fn with_answer(&self, row: &Row, dataset: &info::Entry, answer: Answer, text: &str) -> Option<Row> {
        let columns = &dataset.columns;
        let content = dataset.tags.content.as_deref().unwrap_or("value");
        let mut row = row.clone();
        let message = match answer {
            Answer::Last => row.get_mut(messages_of(columns))?.as_array_mut()?.last_mut()?,
            Answer::Chosen => row.get_mut(columns.chosen.as_deref().unwrap_or("chosen"))?,
            Answer::Rejected => row.get_mut(columns.rejected.as_deref().unwrap_or("rejected"))?,
        };
        match message {
            Value::Object(message) => {
                message.insert(content.into(), text.into());
            }
            other => *other = text.into(),
        }
        Some(row)
    }

    fn with_turns(&self, row: &Row, dataset: &info::Entry, turns: Range<usize>) -> Option<Row> {
        let column = messages_of(&dataset.columns);
        let list = row.get(column)?.as_array()?;
        let role = |value: &Value| message(value, &dataset.tags).ok().map(|message| message.role);
        let mut turn = 0;
        let kept = list.iter().filter(|value| {
            let role = role(value);
            turn += usize::from(role.as_deref() == Some("user"));
            role.as_deref() == Some("system") || (turn > 0 && turns.contains(&(turn - 1)))
        });
        let kept: Vec<Value> = kept.cloned().collect();
        let mut row = row.clone();
        row.insert(column.into(), kept.into());
        Some(row)
    }
}

/// The column with the messages.
fn messages_of(columns: &info::Columns) -> &str {
    columns.messages.as_deref().unwrap_or("conversations")
}

/// A row of messages, as `list` writes them.
fn written(
    example: &Example,
    column: &str,
    list: &dyn Fn(&[Message]) -> Vec<Value>,
    tools: impl Fn(&Value) -> Value,
) -> Result<Row, Box<Problem>> {
    if example.text.is_some() {
        let problem = Problem::new("row_not_messages", "plain text has no messages.", "纯文本没有消息。");
        return Err(Box::new(problem.hint("Take alpaca, or the rows as they stand.", "请使用 alpaca，或按原样导出。")));
    }
    let mut row = Row::from_iter([(column.to_string(), Value::Array(list(&example.messages)))]);
    for (column, answer) in [("chosen", &example.chosen), ("rejected", &example.rejected)] {
        if let Some(answer) = answer {
            row.extend(list(std::slice::from_ref(answer)).pop().map(|answer| (column.to_string(), answer)));
        }
    }
    if let Some(found) = &example.tools {
        row.insert("tools".into(), tools(found));
    }
    if let Some(desirable) = example.desirable {
        row.insert("kto_tag".into(), desirable.into());
    }
    Ok(row)
}

impl Format for OpenAi {
    fn row(&self, example: &Example) -> Result<Row, Box<Problem>> {
        written(example, "messages", &|messages| to_values(messages, true, true), Value::clone)
    }

    fn with_answer(&self, row: &Row, dataset: &info::Entry, answer: Answer, text: &str) -> Option<Row> {
        ShareGpt.with_answer(row, dataset, answer, text)
    }

    fn with_turns(&self, row: &Row, dataset: &info::Entry, turns: Range<usize>) -> Option<Row> {
        ShareGpt.with_turns(row, dataset, turns)
    }

    fn kind(&self, dataset: &info::Entry) -> Kind {
        ShareGpt.kind(dataset)
    }

    fn example(&self, row: &Row, dataset: &info::Entry) -> Result<Example, Box<Problem>> {
        ShareGpt.example(row, dataset)
    }

    /// Written as `sharegpt` with tags, which every version of LLaMA-Factory reads.
    fn recognise(&self, row: &Row) -> Option<Row> {
        recognise(row, "role", "content").map(|(_, mut columns)| {
            let mut entry = Row::new();
            entry.insert("formatting".into(), "sharegpt".into());
            add_preferences(row, &mut entry, &mut columns);
            entry.insert("columns".into(), Value::Object(columns));
            let tags = json!({
                "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "observation_tag": "tool", "function_tag": "function", "system_tag": "system"
            });
            entry.insert("tags".into(), tags);
            entry
        })
    }
}

/// The column of messages whose first message has these two keys, and the columns of the row.
fn recognise(row: &Row, role: &str, content: &str) -> Option<(String, Row)> {
    let fits = |value: &Value| value[0].get(role).is_some_and(Value::is_string) && value[0].get(content).is_some();
    let (column, _) = row.iter().find(|(name, value)| *name != "chosen" && *name != "rejected" && fits(value))?;
    let mut columns = Row::new();
    columns.insert("messages".into(), column.as_str().into());
    for name in ["system", "tools"] {
        if row.contains_key(name) {
            columns.insert(name.into(), name.into());
        }
    }
    Some((column.clone(), columns))
}

fn add_preferences(row: &Row, entry: &mut Row, columns: &mut Row) {
    if row.contains_key("chosen") && row.contains_key("rejected") {
        entry.insert("ranking".into(), true.into());
        columns.insert("chosen".into(), "chosen".into());
        columns.insert("rejected".into(), "rejected".into());
    } else if let Some(label) = ["label", "kto_tag"].into_iter().find(|c| row.get(*c).is_some_and(Value::is_boolean)) {
        columns.insert("kto_tag".into(), label.into());
    }
}

/// One message, its role in our words.
fn message(value: &Value, tags: &info::Tags) -> Result<Message, Box<Problem>> {
    let role_tag = tags.role.as_deref().unwrap_or("from");
    let content_tag = tags.content.as_deref().unwrap_or("value");
    let object =
        value.as_object().ok_or_else(|| fault("row_message", "it is not an object.".into(), "它不是对象。".into()))?;
    let given = needed(object, role_tag)?;
    let role =
        given.as_str().and_then(|role| role_of(role, tags)).ok_or_else(|| unknown_role(role_tag, given, tags))?;
    if let Some(calls) = object.get("tool_calls").and_then(Value::as_array).filter(|calls| !calls.is_empty()) {
        let calls: Vec<Value> = calls.iter().map(|call| call.get("function").unwrap_or(call).clone()).collect();
        let content = Value::Array(calls).to_string();
        return function(content);
    }
    let content = match object.get(content_tag) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => joined(parts, content_tag)?,
        Some(Value::Null) if role == "assistant" => String::new(),
        Some(value @ (Value::Object(_) | Value::Number(_))) if matches!(role, "tool" | "function") => value.to_string(),
        Some(Value::Null) | None => return Err(example::missing(object, content_tag)),
        Some(other) => return Err(example::wrong(content_tag, other, ["a text", "文本"])),
    };
    if role == "function" { function(content) } else { Ok(Message { role: role.into(), content }) }
}

/// An answer that calls tools; its content must be such JSON.
fn function(content: String) -> Result<Message, Box<Problem>> {
    if function_calls(&content).is_empty() {
        return Err(fault(
            "row_call",
            "it calls a tool, but is not JSON with \"name\" and \"arguments\".".into(),
            "它调用工具，但不是带有 \"name\" 和 \"arguments\" 的 JSON。".into(),
        ));
    }
    Ok(Message { role: "function".into(), content })
}

/// OpenAI's list of content parts as one text.
fn joined(parts: &[Value], column: &str) -> Result<String, Box<Problem>> {
    let text = |part: &Value| {
        let text = if part["type"] == "text" { part["text"].as_str() } else { part.as_str() };
        text.map(String::from).ok_or_else(|| example::wrong(column, part, ["a text part", "文本部分"]))
    };
    parts.iter().map(text).collect()
}

fn role_of(role: &str, tags: &info::Tags) -> Option<&'static str> {
    let is = |tag: &Option<String>| tag.as_deref() == Some(role);
    // A tag that isn't named keeps its usual word, so that a system message isn't lost for want of a tag.
    let usual = |tag: &Option<String>, words: &[&str]| is(tag) || (tag.is_none() && words.contains(&role));
    if usual(&tags.user, &["human", "user"]) {
        Some("user")
    } else if usual(&tags.assistant, &["gpt", "assistant"]) {
        Some("assistant")
    } else if usual(&tags.system, &["system"]) {
        Some("system")
    } else if usual(&tags.observation, &["observation", "tool"]) {
        Some("tool")
    } else if usual(&tags.function, &["function_call"]) {
        Some("function")
    } else {
        None
    }
}

fn unknown_role(column: &str, found: &Value, tags: &info::Tags) -> Box<Problem> {
    let known = [&tags.user, &tags.assistant, &tags.system, &tags.observation, &tags.function];
    let known: Vec<&str> = known.into_iter().flatten().map(String::as_str).collect();
    let problem = Problem::new(
        "row_role_unknown",
        format!("{column:?} is {found}, which is none of {}.", known.join(", ")),
        format!("“{column}”是 {found}，不属于 {}。", known.join("、")),
    );
    Box::new(problem.hint(
        "Mend the row, or name the roles under tags in dataset_info.json.",
        "请修正该行，或在 dataset_info.json 的 tags 中写明角色名。",
    ))
}

fn at_message(mut problem: Problem, number: usize) -> Box<Problem> {
    problem.message = format!("message {number}: {}", problem.message);
    if let Some(zh) = &mut problem.zh {
        zh.message = format!("第 {number} 条消息：{}", zh.message);
    }
    Box::new(problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{example_of, row};
    use super::*;

    fn read(entry: Value, value: Value) -> Result<Example, Box<Problem>> {
        example_of(&ShareGpt, entry, value)
    }

    fn roles(example: &Example) -> Vec<&str> {
        example.messages.iter().map(|m| m.role.as_str()).collect()
    }

    #[test]
    fn tools_and_observations_are_read() {
        let entry = json!({"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}});
        let value = json!({"conversations": [
            {"from": "system", "value": ""},
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "one"}], "tools": "[{\"name\": \"f\"}]"});
        let example = read(entry.clone(), value).unwrap();
        assert_eq!(roles(&example), ["user", "function", "tool", "assistant"]);
        assert_eq!(example.tools.unwrap()[0], json!({"type": "function", "function": {"name": "f"}}));
        let bad =
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f()"}]});
        assert!(read(entry, bad).unwrap_err().message.starts_with("message 2: it calls a tool"));
    }

    #[test]
    fn openai_messages_are_recognised_and_read() {
        let value = json!({"messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "done"}]});
        let entry = OpenAi.recognise(&row(value.clone())).unwrap();
        let example = read(Value::Object(entry), value.clone()).unwrap();
        assert_eq!(roles(&example), ["system", "user", "function", "tool", "tool", "assistant"]);
        let openai = read(json!({"formatting": "openai"}), value).unwrap();
        assert_eq!(openai.messages, example.messages);
    }

    #[test]
    fn pairs_stand_in_columns_of_their_own() {
        let value = json!({"conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}});
        let entry = ShareGpt.recognise(&row(value.clone())).unwrap();
        assert_eq!(entry["ranking"], true);
        let example = read(Value::Object(entry), value).unwrap();
        assert_eq!(example.chosen, Some(Message::new("assistant", "good")));
        assert_eq!(example.shown().len(), 2);
    }

    #[test]
    fn faults_name_the_message() {
        let entry = json!({"formatting": "sharegpt"});
        let of = |list: Value| read(entry.clone(), json!({"conversations": list})).unwrap_err().message;
        assert!(of(json!([{"from": "bot", "value": "x"}])).starts_with("message 1: \"from\" is \"bot\""));
        assert!(of(json!([{"from": "human"}])).starts_with("message 1: column \"value\" is missing"));
        assert!(of(json!([{"from": "gpt", "value": "x"}])).contains("message 1 is of role \"assistant\""));
        assert!(of(json!("x")).contains("not a list of messages"));
        assert!(
            read(entry.clone(), json!({"messages": []})).unwrap_err().message.contains("\"conversations\" is missing")
        );
    }
}
