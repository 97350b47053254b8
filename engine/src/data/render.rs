//! A chat template tried on a conversation, as files: `lathe data render`.

use super::{ChatTemplate, reader};
use crate::{Error, Result, files::read_at_most};
use api::Problem;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Larger than any template or conversation that is tried by hand.
const MAX_FILE: u64 = 16 << 20;

/// What is rendered. Messages and tools are as transformers' `apply_chat_template` takes them.
#[derive(Clone, Debug, Default)]
pub struct Rendering {
    /// Jinja source.
    pub template: PathBuf,
    /// A JSON list of messages, or an object with `messages` and perhaps `tools`.
    pub messages: PathBuf,
    /// A JSON list.
    pub tools: Option<PathBuf>,
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub add_generation_prompt: bool,
}

/// The text of the conversation, exactly.
pub fn render(rendering: &Rendering) -> Result<String> {
    let source = String::from_utf8(bytes(&rendering.template)?).map_err(|_| not_text(&rendering.template))?;
    let template = ChatTemplate::new(&source, rendering.bos.as_deref(), rendering.eos.as_deref())?;
    let mut given = json(&rendering.messages)?;
    let mut tools = rendering.tools.as_deref().map(json).transpose()?;
    if let Value::Object(object) = &mut given {
        tools = tools.or_else(|| object.remove("tools"));
        given = object.remove("messages").unwrap_or_default();
    }
    let Value::Array(messages) = given else { return Err(not_a_list(&rendering.messages, "messages")) };
    if let Some(path) = rendering.tools.as_deref().filter(|_| tools.as_ref().is_some_and(|t| !t.is_array())) {
        return Err(not_a_list(path, "tools"));
    }
    let tools = tools.filter(|tools| !tools.is_null());
    template.render_values(&messages, tools.as_ref(), rendering.add_generation_prompt, &Map::new())
}

fn json(path: &Path) -> Result<Value> {
    Ok(reader::from_json(path, &bytes(path)?)?)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, MAX_FILE)
}

fn not_text(path: &Path) -> Error {
    let shown = path.display();
    Problem::new("not_text", format!("{shown} is not UTF-8 text."), format!("{shown} 不是 UTF-8 文本。"))
        .hint("Give the template's Jinja source.", "请提供模板的 Jinja 源码。")
        .into()
}

fn not_a_list(path: &Path, what: &str) -> Error {
    let shown = path.display();
    Problem::new(
        "not_a_list",
        format!("{shown} does not hold a list of {what}."),
        format!("{shown} 中没有 {what} 列表。"),
    )
    .hint(
        "Write JSON as transformers' apply_chat_template takes it: [{\"role\": \"user\", \"content\": \"…\"}].",
        "请按 transformers 的 apply_chat_template 写成 JSON：[{\"role\": \"user\", \"content\": \"…\"}]。",
    )
    .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_conversation_is_rendered_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let template = file(
            "t.jinja",
            "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
             {{ tools | tojson if tools else '' }}{% if add_generation_prompt %}assistant: {% endif %}\n",
        );
        let list = file("list.json", r#"[{"role": "user", "content": "a <b> & 好"}]"#);
        let rendering = Rendering { template, messages: list, eos: Some("</s>".into()), ..Rendering::default() };
        assert_eq!(render(&rendering).unwrap(), "user: a <b> & 好</s>\n");
        let object = file("object.json", r#"{"messages": [{"role": "user", "content": "x"}], "tools": [{"a": 1}]}"#);
        let asked = Rendering { messages: object, add_generation_prompt: true, ..rendering.clone() };
        assert_eq!(render(&asked).unwrap(), "user: x</s>\n[{\"a\": 1}]assistant: ");
        let wrong = Rendering { messages: file("wrong.json", "3"), ..rendering };
        assert!(render(&wrong).unwrap_err().into_problem().message.contains("wrong.json does not hold a list"));
    }
}
