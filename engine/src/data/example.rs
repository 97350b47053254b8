//! One row as every stage sees it, whatever its format was: a conversation, an answer that is preferred, or plain text.

use api::{Problem, data::Message};
use serde_json::{Map, Value, json};

/// One row of a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// `system` (at most one, first), then `user` or `tool` and `assistant` or `function` in turns. A `function` message is
    /// an answer that calls tools: its content is the JSON of one call (`name`, `arguments`) or a list of them.
    pub messages: Vec<Message>,
    /// The same messages as transformers takes them, where the row says more of them than `messages` can: ids of calls, words
    /// beside a call, thoughts in a field of their own.
    pub given: Option<Vec<Value>>,
    /// Tools that the conversation may call, as transformers takes them: a list of `{"type": "function", "function": …}`.
    pub tools: Option<Value>,
    /// Plain text; such a row has no messages.
    pub text: Option<String>,
    /// Preference data: the better and the worse answer to `messages`.
    pub chosen: Option<Message>,
    pub rejected: Option<Message>,
    /// Preference data: by how much the better one is better; 0 where the row doesn't say.
    pub margin: f32,
    /// KTO data: whether the last answer is wanted.
    pub desirable: Option<bool>,
}

/// What the rows of a dataset are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Instructions,
    Preferences,
    Kto,
    Text,
}

impl Kind {
    /// The word of [`api::data::DatasetInfo::kind`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Preferences => "preferences",
            Self::Kto => "kto",
            Self::Text => "text",
        }
    }
}

impl Example {
    /// Bytes of all texts, about.
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().chain(&self.chosen).chain(&self.rejected);
        messages.map(|message| message.content.len()).sum::<usize>() + self.text.as_ref().map_or(0, String::len)
    }

    /// The conversation with this answer at its end, in the place of one that stands there.
    pub fn answered_by(&self, answer: &Message) -> Self {
        let asked = self.messages.len() - usize::from(self.messages.last().is_some_and(is_answer));
        let mut messages = self.messages[..asked].to_vec();
        messages.push(answer.clone());
        let given = self.given.as_ref().map(|given| {
            let mut given = given[..asked.min(given.len())].to_vec();
            given.extend(to_values(&messages[asked..], true));
            given
        });
        Self { messages, given, chosen: None, rejected: None, ..self.clone() }
    }

    /// The conversation as a person reads it; the chosen answer stands at its end.
    pub fn shown(&self) -> Vec<Message> {
        self.messages.iter().chain(&self.chosen).cloned().collect()
    }
}

/// Whether the model speaks in this message.
pub fn is_answer(message: &Message) -> bool {
    matches!(message.role.as_str(), "assistant" | "function")
}

/// Messages as transformers' templates take them. With `calls`, `function` messages become an assistant's `tool_calls`;
/// otherwise their JSON is the assistant's content.
pub fn to_values(messages: &[Message], calls: bool) -> Vec<Value> {
    // Mistral's templates want ids of nine letters or digits; a tool's answer carries that of its call, in order.
    let (mut made, mut answered) = (0u32, 0u32);
    let id = |counter: &mut u32| {
        *counter += 1;
        format!("call{counter:05}")
    };
    let convert = |message: &Message| match message.role.as_str() {
        "function" if calls => {
            answered = made;
            let calls: Vec<Value> = function_calls(&message.content)
                .into_iter()
                .map(|(name, arguments)| {
                    let function = json!({ "name": name, "arguments": arguments });
                    json!({ "type": "function", "id": id(&mut made), "function": function })
                })
                .collect();
            json!({ "role": "assistant", "content": null, "tool_calls": calls })
        }
        "function" => json!({ "role": "assistant", "content": message.content }),
        "tool" if calls => {
            if answered < made {
                answered += 1;
            }
            json!({ "role": "tool", "content": message.content, "tool_call_id": format!("call{answered:05}") })
        }
        role => json!({ "role": role, "content": message.content }),
    };
    messages.iter().map(convert).collect()
}

/// The messages of an example as transformers' templates take them: those of the row where it has them so. With `calls` the
/// template writes calls itself; otherwise they stand in the content, behind the words beside them.
pub fn values(example: &Example, calls: bool) -> Vec<Value> {
    let Some(given) = &example.given else { return to_values(&example.messages, calls) };
    let mut values = given.clone();
    for (value, message) in values.iter_mut().zip(&example.messages).filter(|(_, m)| !calls && m.role == "function") {
        let words = value["content"].as_str().filter(|words| !words.is_empty());
        let content = words.map_or_else(|| message.content.clone(), |words| format!("{words}\n{}", message.content));
        *value = json!({ "role": "assistant", "content": content });
    }
    values
}

/// `values` with `form` put in the place of the arguments of each call.
pub fn with_arguments(values: &[Value], form: impl Fn(&Value) -> Value) -> Vec<Value> {
    let mut values = values.to_vec();
    let calls = values.iter_mut().filter_map(|value| value.get_mut("tool_calls")?.as_array_mut()).flatten();
    for arguments in calls.filter_map(|call| call.get_mut("function")?.get_mut("arguments")) {
        *arguments = form(arguments);
    }
    values
}

/// Name and arguments of each call in the content of a `function` message; empty if it isn't such JSON.
pub fn function_calls(content: &str) -> Vec<(String, Value)> {
    let Ok(value) = serde_json::from_str::<Value>(content) else { return Vec::new() };
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |value: &Value| {
        let name = value.get("name")?.as_str()?.to_string();
        let arguments = value.get("arguments").cloned().unwrap_or_else(|| json!({}));
        // Some files hold the arguments as JSON text.
        let arguments = match &arguments {
            Value::String(text) => serde_json::from_str(text).unwrap_or(arguments),
            _ => arguments,
        };
        Some((name, arguments))
    };
    list.iter().map(call).collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// The text in `column` of a row; null is no text.
pub fn text<'a>(row: &'a Map<String, Value>, column: &str) -> Result<Option<&'a str>, Box<Problem>> {
    match row.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(column, other, ["a text", "文本"])),
    }
}

/// The value in a column that must be there.
pub fn needed<'a>(row: &'a Map<String, Value>, column: &str) -> Result<&'a Value, Box<Problem>> {
    row.get(column).filter(|value| !value.is_null()).ok_or_else(|| missing(row, column))
}

/// The text in a column that must be there.
pub fn needed_text<'a>(row: &'a Map<String, Value>, column: &str) -> Result<&'a str, Box<Problem>> {
    let value = needed(row, column)?;
    value.as_str().ok_or_else(|| wrong(column, value, ["a text", "文本"]))
}

/// By how much the better answer of a row is better, in the column `margin`.
pub fn margin(row: &Map<String, Value>) -> Result<f32, Box<Problem>> {
    match row.get("margin") {
        None | Some(Value::Null) => Ok(0.0),
        Some(value) => {
            let number = value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
            number.ok_or_else(|| wrong("margin", value, ["a number", "数字"]))
        }
    }
}

/// The tools of a row as transformers takes them: JSON text or a list, wrapped as `{"type": "function", …}`.
pub fn tools(row: &Map<String, Value>, column: &str) -> Result<Option<Value>, Box<Problem>> {
    let value = match row.get(column) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|e| {
            fault(
                "tools_not_json",
                format!("column {column:?} is not valid JSON: {e}."),
                format!("列“{column}”不是有效的 JSON：{e}。"),
            )
        })?,
        Some(other) => other.clone(),
    };
    let Value::Array(list) = value else {
        return Err(wrong(column, &value, ["a list of tools", "工具列表"]));
    };
    let wrap =
        |tool: Value| if tool["type"] == "function" { tool } else { json!({"type": "function", "function": tool}) };
    Ok((!list.is_empty()).then(|| Value::Array(list.into_iter().map(wrap).collect())))
}

/// Tools as LLaMA-Factory's files have them: JSON text of a list, without the wrapping.
pub fn plain_tools(tools: &Value) -> Value {
    let list = tools.as_array().map(Vec::as_slice).unwrap_or_default();
    let plain: Vec<&Value> = list.iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
    json!(plain).to_string().into()
}

/// The problem of a column that a row lacks.
pub fn missing(row: &Map<String, Value>, column: &str) -> Box<Problem> {
    let mut found: Vec<&str> = row.keys().map(String::as_str).take(20).collect();
    if found.is_empty() {
        found.push("–");
    }
    let problem = Problem::new(
        "row_column_missing",
        format!("column {column:?} is missing; found: {}.", found.join(", ")),
        format!("缺少列“{column}”；现有：{}。", found.join("、")),
    );
    Box::new(problem.hint(
        "Add the column to the row, or name the right one under columns in dataset_info.json.",
        "请为该行补上此列，或在 dataset_info.json 的 columns 中写明正确的列名。",
    ))
}

/// The problem of a column that holds something else than `wanted` (English, Chinese).
pub fn wrong(column: &str, found: &Value, wanted: [&str; 2]) -> Box<Problem> {
    let mut shown: String = found.to_string().chars().take(40).collect();
    if shown.chars().count() == 40 {
        shown.push('…');
    }
    fault(
        "row_column_wrong",
        format!("column {column:?} is {shown}, not {}.", wanted[0]),
        format!("列“{column}”是 {shown}，不是{}。", wanted[1]),
    )
}

/// A problem of one row; mending the row is the next step.
pub fn fault(code: &str, en: String, zh: String) -> Box<Problem> {
    Box::new(
        Problem::new(code, en, zh).hint("Mend the row in the file, or delete it.", "请在文件中修正该行，或删除它。"),
    )
}

/// `problem` of row `row` (from 1) of a dataset.
pub fn at_row(problem: Problem, dataset: &str, row: u64) -> Problem {
    let mut problem = problem;
    problem.message = format!("Row {row} of dataset {dataset}: {}", problem.message);
    if let Some(zh) = &mut problem.zh {
        zh.message = format!("数据集 {dataset} 第 {row} 行：{}", zh.message);
    }
    if problem.field.is_none() {
        problem.field = Some("dataset".into());
    }
    problem
}

/// Checks that the messages take turns: a question (user or tool), then an answer. Several tools may answer in a row. The
/// last message is an answer, or a question where the answers stand in columns of their own (`open`).
pub fn check_turns(messages: &[Message], open: bool) -> Result<(), Box<Problem>> {
    let start = usize::from(messages.first().is_some_and(|m| m.role == "system"));
    let mut answer_next = false;
    let mut previous = "";
    for (i, message) in messages.iter().enumerate().skip(start) {
        let answers = is_answer(message);
        let tools = message.role == "tool" && previous == "tool";
        if (answers != answer_next && !tools) || message.role == "system" {
            let wanted = if answer_next { ["an answer", "回答"] } else { ["a question", "提问"] };
            return Err(fault(
                "row_roles",
                format!("message {} is of role {:?} where {} must stand.", i + 1, message.role, wanted[0]),
                format!("第 {} 条消息的角色是“{}”，此处应为{}。", i + 1, message.role, wanted[1]),
            ));
        }
        answer_next = !answers;
        previous = &message.role;
    }
    match (messages.len() > start, answer_next == open) {
        (true, true) => Ok(()),
        (false, _) => Err(fault("row_empty", "it has no messages.".into(), "没有消息。".into())),
        (true, false) if open => Err(fault(
            "row_roles",
            "its messages end with an answer, but the answers are in columns of their own.".into(),
            "消息以回答结尾，但回答应在单独的列中。".into(),
        )),
        (true, false) => {
            Err(fault("row_roles", "its messages end without an answer.".into(), "消息末尾缺少回答。".into()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn roles(roles: &[&str], open: bool) -> Option<String> {
        let messages: Vec<Message> = roles.iter().map(|r| Message::new(r, "x")).collect();
        check_turns(&messages, open).err().map(|p| p.message)
    }

    #[test]
    fn turns_are_checked() {
        assert_eq!(roles(&["system", "user", "function", "tool", "tool", "assistant"], false), None);
        assert_eq!(roles(&["user"], true), None);
        assert!(roles(&["user"], false).unwrap().contains("without an answer"));
        assert!(roles(&["user", "assistant"], true).unwrap().contains("columns of their own"));
        assert!(roles(&["user", "user", "assistant"], false).unwrap().starts_with("message 2"));
        assert!(roles(&["assistant", "user"], false).unwrap().starts_with("message 1"));
        assert!(roles(&["user", "system", "assistant"], false).unwrap().starts_with("message 2"));
        assert!(roles(&["system"], false).unwrap().contains("no messages"));
    }

    #[test]
    fn calls_become_what_templates_take() {
        let messages = [
            Message::new("user", "Weather?"),
            Message::new("function", r#"[{"name":"a","arguments":{"x":1}},{"name":"b","arguments":"{\"y\":2}"}]"#),
            Message::new("tool", "1"),
            Message::new("tool", "2"),
        ];
        let values = to_values(&messages, true);
        assert_eq!(values[1]["tool_calls"][1]["function"], json!({"name": "b", "arguments": {"y": 2}}));
        assert_eq!(values[1]["tool_calls"][1]["id"], values[3]["tool_call_id"]);
        assert_eq!(values[1]["tool_calls"][0]["id"], values[2]["tool_call_id"]);
        let texts = with_arguments(&values, |arguments| arguments.to_string().into());
        assert_eq!(texts[1]["tool_calls"][0]["function"]["arguments"], r#"{"x":1}"#);
        assert_eq!(to_values(&messages, false)[1]["content"], messages[1].content);
        assert!(function_calls("sunny").is_empty());
    }
}
