//! Messages as OpenAI's clients send them, and as the chat templates take them.

use super::request::refused;
use crate::error::Reply;
use api::{calls::Call, data::Message};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize, JsonSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant`, `tool` or `function`.
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    tool_calls: Option<Vec<SentCall>>,
}

/// A text, or parts of it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize, JsonSchema)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct SentCall {
    function: Call,
}

/// What a template is given. At least one message.
pub fn read(messages: Vec<ChatMessage>) -> Reply<Vec<Message>> {
    if messages.is_empty() {
        return Err(refused(
            "messages",
            "There is no message to answer.".into(),
            "没有可回答的消息。".into(),
            ["Send at least one.", "请至少发送一条消息。"],
        ));
    }
    messages.into_iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(i: usize, message: ChatMessage) -> Reply<Message> {
    let role = match message.role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => "tool",
        other => {
            let other: String = other.chars().take(100).collect();
            return Err(refused(
                &format!("messages[{i}].role"),
                format!("messages[{i}].role is {other:?}."),
                format!("messages[{i}].role 为 {other:?}。"),
                [
                    "It can be system, developer, user, assistant or tool.",
                    "可用的角色：system、developer、user、assistant、tool。",
                ],
            ));
        }
    };
    // An answer that calls tools is the JSON of its calls.
    let calls = message.tool_calls.unwrap_or_default();
    if role == "assistant" && !calls.is_empty() {
        let call = |sent: &SentCall| json!({ "name": sent.function.name, "arguments": sent.function.parsed() });
        let calls: Vec<_> = calls.iter().map(call).collect();
        return Ok(Message::new("function", json!(calls).to_string()));
    }
    Ok(Message::new(role, text(i, message.content)?))
}

/// The text of a message; parts stand below each other.
fn text(i: usize, content: Option<Content>) -> Reply<String> {
    let parts = match content {
        None => return Ok(String::new()),
        Some(Content::Text(text)) => return Ok(text),
        Some(Content::Parts(parts)) => parts,
    };
    let text = |(k, part): (usize, Part)| {
        part.text.filter(|_| part.kind == "text").ok_or_else(|| {
            let kind: String = part.kind.chars().take(100).collect();
            refused(
                &format!("messages[{i}].content[{k}]"),
                format!("messages[{i}].content[{k}] is of the type {kind:?}, and the model reads text alone."),
                format!("messages[{i}].content[{k}] 的类型为 {kind:?}，而模型只能读取文本。"),
                ["Send parts of the type text.", "请发送类型为 text 的部分。"],
            )
        })
    };
    Ok(parts.into_iter().enumerate().map(text).collect::<Reply<Vec<_>>>()?.join("\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn messages(sent: Value) -> Result<Vec<Message>, String> {
        read(serde_json::from_value(sent).unwrap()).map_err(|failure| failure.problems[0].field.clone().unwrap())
    }

    #[test]
    fn roles_parts_and_calls_become_what_templates_take() {
        let read = messages(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "sum", "arguments": "{\"of\": [1, 2]}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]));
        let calls = r#"[{"name":"sum","arguments":{"of":[1,2]}}]"#;
        let expected = [("system", "Be brief."), ("user", "a\nb"), ("function", calls), ("tool", "3")];
        assert_eq!(read.unwrap(), expected.map(|(role, content)| Message::new(role, content)));
    }

    #[test]
    fn what_is_no_text_is_refused_by_its_place() {
        assert_eq!(messages(json!([])), Err("messages".into()));
        assert_eq!(messages(json!([{"role": "king", "content": ""}])), Err("messages[0].role".into()));
        let picture = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]);
        assert_eq!(messages(picture), Err("messages[0].content[0]".into()));
    }
}
