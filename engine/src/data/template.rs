//! Chat templates with transformers' semantics: Jinja in a sandbox with bounds, `trim_blocks` and `lstrip_blocks`, Python's
//! string methods, `loop` controls, `raise_exception`, `strftime_now` and transformers' own `tojson`.

mod named;
mod python;
mod source;
mod tojson;

pub use named::{NAMES, find, named};
pub use source::GENERATION;

use super::example;
use crate::Result;
use api::{Problem, data::Message};
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig};
use serde_json::Map;
use std::io;
use std::sync::Arc;

/// What an encoder-decoder without a template of its own reads: the messages' words alone, a line break between them. As
/// LLaMA-Factory's `empty`.
pub const EMPTY: &str = "{{ messages | map(attribute='content') | join('\\n') }}";

/// More text than this from one conversation is refused.
pub const MAX_OUTPUT: usize = 8 << 20;
/// Larger than any template that a model carries.
const MAX_SOURCE: usize = 1 << 20;
/// Instructions for one conversation; templates take some hundred for a message.
const FUEL: u64 = 20_000_000;
const RECURSION: usize = 100;
/// Words and signs in one tag, and branches in all: what follows each other there is compiled one inside the other, and too
/// much of it ends the process by its stack. The longest tag of a hundred models' templates has 35.
const MAX_TAG: usize = 500;
const MAX_BRANCHES: usize = 200;

/// A compiled chat template. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: Option<String>,
    eos: Option<String>,
    takes_tools: bool,
    takes_calls: bool,
    marks_answers: bool,
    /// The template for conversations with tools, where the model has one of its own for them.
    tool_use: Option<Arc<ChatTemplate>>,
}

impl ChatTemplate {
    /// Compiles Jinja source. `bos` and `eos` are the texts that `bos_token` and `eos_token` stand for.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let (en, zh) = (
                format!("The chat template has {} bytes, more than {MAX_SOURCE}.", source.len()),
                format!("对话模板有 {} 字节，超过 {MAX_SOURCE}。", source.len()),
            );
            return Err(template_problem("template_too_large", en, zh).into());
        }
        let (longest, branches) = (source::longest_tag(source), source.matches("elif").count());
        if longest > MAX_TAG || branches > MAX_BRANCHES {
            let (en, zh) = (
                format!(
                    "The chat template has a tag of {longest} words and signs (at most {MAX_TAG}) or {branches} branches (at most {MAX_BRANCHES})."
                ),
                format!(
                    "对话模板中有一个标签含 {longest} 个词和符号（最多 {MAX_TAG}），或有 {branches} 个分支（最多 {MAX_BRANCHES}）。"
                ),
            );
            return Err(template_problem("template_too_deep", en, zh).into());
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| syntax_problem(&e))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", tojson_filter);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter(source::ITERABLE, iterable);
        let (adapted, marks_answers) = source::adapted(source);
        environment.add_template_owned("chat", adapted).map_err(|e| syntax_problem(&e))?;
        Ok(Self {
            environment: Arc::new(environment),
            bos: bos.map(String::from),
            eos: eos.map(String::from),
            takes_tools: source.contains("tools"),
            takes_calls: source.contains("tool_calls"),
            marks_answers,
            tool_use: None,
        })
    }

    /// The same, with another template for conversations with tools.
    pub fn with_tools(self, tool_use: Self) -> Self {
        Self { tool_use: Some(Arc::new(tool_use)), ..self }
    }

    /// The template for a conversation with these tools.
    pub fn of(&self, tools: Option<&serde_json::Value>) -> &Self {
        self.tool_use.as_deref().filter(|_| tools.is_some()).unwrap_or(self)
    }

    /// Whether the template says anything about tools that may be called.
    pub fn takes_tools(&self) -> bool {
        self.takes_tools || self.tool_use.is_some()
    }

    /// Whether it writes calls of tools itself; otherwise a call stands in the text of the answer.
    pub fn takes_calls(&self) -> bool {
        self.takes_calls
    }

    /// Its source and what it is given besides messages; with today's date, if it writes dates.
    pub fn fingerprint(&self) -> String {
        let source = self.environment.get_template("chat").map_or_else(|_| String::new(), |chat| chat.source().into());
        let today = if source.contains("strftime_now") { jiff::Zoned::now().date().to_string() } else { String::new() };
        let tool_use = self.tool_use.as_ref().map(|tool_use| tool_use.fingerprint());
        format!("{:?}", (source, &self.bos, &self.eos, today, tool_use))
    }

    /// Whether it says itself what the answers are, with `{% generation %}`; see [`GENERATION`].
    pub fn marks_answers(&self) -> bool {
        self.marks_answers
    }

    /// The text that `eos_token` stands for.
    pub fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// The conversation as text. `extra` are further variables, for example `enable_thinking`.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
        extra: &Map<String, serde_json::Value>,
    ) -> Result<String> {
        let values = example::to_values(messages, self.takes_calls);
        self.render_fitting(&values, tools, add_generation_prompt, extra).map(|(_, text)| text)
    }

    /// As [`ChatTemplate::render_values`], with the messages as they were rendered: the arguments of calls are objects, as
    /// transformers asks for, or JSON text for templates that join them to other text.
    pub fn render_fitting(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
        extra: &Map<String, serde_json::Value>,
    ) -> Result<(Vec<serde_json::Value>, String)> {
        let with = |values: Vec<serde_json::Value>| {
            let text = self.render_values(&values, tools, add_generation_prompt, extra)?;
            Ok((values, text))
        };
        if !messages.iter().any(|message| message.get("tool_calls").is_some()) {
            return with(messages.to_vec());
        }
        let objects = |arguments: &serde_json::Value| {
            let object = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
            object.filter(serde_json::Value::is_object).unwrap_or_else(|| arguments.clone())
        };
        let texts = |arguments: &serde_json::Value| match arguments {
            serde_json::Value::String(_) => arguments.clone(),
            object => tojson::dumps(&Value::from(Serde(object)), &tojson::Style::default())
                .unwrap_or_else(|_| object.to_string())
                .into(),
        };
        with(example::with_arguments(messages, objects))
            .or_else(|error| with(example::with_arguments(messages, texts)).map_err(|_| error))
    }

    /// As [`ChatTemplate::render`], for messages as transformers takes them (`role`, `content`, `tool_calls` …).
    pub fn render_values(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
        extra: &Map<String, serde_json::Value>,
    ) -> Result<String> {
        let mut context = std::collections::BTreeMap::new();
        context.insert("messages", Value::from(Serde(messages)));
        context.insert("tools", Value::from(Serde(tools)));
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(text) = text {
                context.insert(name, Value::from(text.as_str()));
            }
        }
        for (name, value) in extra {
            context.insert(name, Value::from(Serde(value)));
        }
        let template = self.environment.get_template("chat").map_err(|e| render_problem(&e))?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(Value::from(context), &mut out).map_err(|e| render_problem(&e))?;
        String::from_utf8(out.0).map_err(|e| crate::Error::Internal(e.to_string()))
    }
}

/// The variables that a run or a question to the model sets.
pub fn variables(enable_thinking: Option<bool>) -> Map<String, serde_json::Value> {
    enable_thinking.into_iter().map(|on| ("enable_thinking".to_string(), on.into())).collect()
}

/// Bytes up to [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a template says with `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// In Python a loop over `None` is an error, where minijinja's has no turns: transformers refuses a conversation without
/// tools for a template that goes through them.
fn iterable(value: Value) -> std::result::Result<Value, Error> {
    match value.is_none() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable")),
        false => Ok(value),
    }
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson_filter(value: &Value, ascii: Option<Value>, options: Kwargs) -> std::result::Result<Value, Error> {
    let ascii = match ascii {
        Some(ascii) => Some(ascii),
        None => options.get::<Option<Value>>("ensure_ascii")?,
    };
    let style = tojson::Style {
        indent: options.get("indent")?,
        separators: options.get::<Option<Vec<String>>>("separators")?,
        ensure_ascii: ascii.is_some_and(|value| value.is_true()),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    tojson::dumps(value, &style).map(Value::from)
}

fn raise_exception(message: String) -> std::result::Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime_now(format: &str) -> std::result::Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

fn template_problem(code: &str, en: String, zh: String) -> Problem {
    Problem::new(code, en, zh)
        .hint(
            "Choose one of the named templates, or mend the model's chat template.",
            "请选择一个内置模板，或修正模型自带的对话模板。",
        )
        .field("template")
}

fn syntax_problem(error: &Error) -> Problem {
    let line = error.line().unwrap_or(1);
    let detail = error.detail().map_or_else(|| error.to_string(), String::from);
    template_problem(
        "template_syntax",
        format!("The chat template can't be read, line {line}: {detail}."),
        format!("无法读取对话模板，第 {line} 行：{detail}。"),
    )
}

fn render_problem(error: &Error) -> Problem {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Raised(said)) = inner.downcast_ref() {
            let said = said.trim_end_matches('.');
            return Problem::new(
                "template_refused",
                format!("The chat template refuses this conversation: {said}."),
                format!("对话模板不接受此对话：{said}。"),
            )
            .hint(
                "Change the messages to what the model takes, or choose another template.",
                "请把消息改成该模型接受的形式，或选择其他模板。",
            )
            .field("template");
        }
        source = inner.source();
    }
    let mib = MAX_OUTPUT >> 20;
    match error.kind() {
        ErrorKind::OutOfFuel => template_problem(
            "template_endless",
            "The chat template takes too many steps for one conversation.".into(),
            "对话模板处理一段对话的步骤过多。".into(),
        ),
        ErrorKind::WriteFailure => template_problem(
            "template_output",
            format!("The chat template makes more than {mib} MiB of text of one conversation."),
            format!("对话模板为一段对话生成的文本超过 {mib} MiB。"),
        ),
        _ => {
            let line = error.line().unwrap_or(1);
            let detail = error.detail().map_or_else(|| error.kind().to_string(), String::from);
            template_problem(
                "template_failed",
                format!("The chat template fails at line {line}: {detail}."),
                format!("对话模板在第 {line} 行出错：{detail}。"),
            )
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str) -> Result<String> {
        let template = ChatTemplate::new(source, Some("<s>"), None)?;
        let messages = [Message::new("user", "a<b & 'c' 中"), Message::new("assistant", "<think>x</think>y")];
        template.render(&messages, Some(&json!([{"b": 1, "a": [1.0, true, null, "é\n"]}])), true, &Map::new())
    }

    #[test]
    fn python_and_transformers_words_are_known() {
        let cases = [
            ("{{ bos_token }}{{ eos_token }}{{ messages[0].content }}", "<s>a<b & 'c' 中"),
            ("{{ tools[0] | tojson }}", "{\"b\": 1, \"a\": [1.0, true, null, \"é\\n\"]}"),
            ("{{ {'a': []} | tojson(indent=2) }}", "{\n  \"a\": []\n}"),
            ("{{ messages[1].content.split('</think>')[-1] }}", "y"),
            ("{{ 'a,b,c'.rsplit(',', 1)[0] }} {{ ' a b '.rsplit() | length }}", "a,b 2"),
            ("{{ 'prefix'.removeprefix('pre') }}", "fix"),
            ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
            ("x\n    {% if true %}\n    y\n    {% endif %}\nz\n", "x\n    y\nz"),
            ("{% generation %}\nin {%- endgeneration %}\n out", "in out"),
            ("{# it's #}{{ 'a\\\nb' }}'\\\n{{ \"{%\" }}", "ab'\\\n{%"),
            ("{{ none }} {{ true }} {{ 1.0 }} {{ [1, 'a'] }}", "None True 1.0 [1, 'a']"),
            ("{{ strftime_now('%Y') | length }}", "4"),
            ("{{ documents is none }}{{ missing is defined }}", "TrueFalse"),
            (
                "{% for k, v in {'if': [1]}.items() if k != 'in' %}{{ k }}{{ v }}{% endfor -%}\n{%for x in missing%}{%else%}none{%endfor%}",
                "if[1]none",
            ),
            (
                "{% for i in [[1, []]] recursive %}{{ i[0] }}{{ loop(i[1]) }}{% endfor %}{% for c in 'a%}' %}{{ c }}.{% endfor %}",
                "1a.%.}.",
            ),
        ];
        for (source, wanted) in cases {
            assert_eq!(render(source).unwrap(), wanted, "{source}");
        }
    }

    #[test]
    fn conversations_with_tools_may_have_a_template_of_their_own() {
        let template = ChatTemplate::new("plain", None, None).unwrap();
        let template = template.with_tools(ChatTemplate::new("{{ tools | length }} tools", None, None).unwrap());
        let render = |tools| template.of(tools).render(&[], tools, false, &Map::new()).unwrap();
        assert_eq!((render(None), render(Some(&json!([1, 2])))), ("plain".into(), "2 tools".into()));
        assert!(template.takes_tools());
    }

    #[test]
    fn faults_are_problems() {
        let code = |source: &str| render(source).unwrap_err().into_problem().code;
        assert_eq!(code("{% if %}"), "template_syntax");
        assert_eq!(code("{{ raise_exception('Only user') }}"), "template_refused");
        assert_eq!(code("{{ messages[9].content }}"), "template_failed");
        assert_eq!(
            code("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"),
            "template_endless"
        );
        assert_eq!(code("{{ 'x' * 9000000 }}"), "template_output");
        assert_eq!(code("{% for i in range(9000) %}{{ 'x' * 1000 }}{% endfor %}"), "template_output");
        assert_eq!(
            code(
                "{% set ns = namespace(a=[]) %}{% for i in range(70) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}"
            ),
            "template_failed"
        );
        assert_eq!(code(&"x".repeat(MAX_SOURCE + 1)), "template_too_large");
        assert_eq!(code("{% for d in documents -%}{% endfor %}"), "template_failed");
        assert_eq!(code("{% for t in nothing.at.all %}{% endfor %}"), "template_failed");
        assert_eq!(code("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), "template_failed");
        let refused = render("{{ raise_exception('Only user.') }}").unwrap_err().into_problem();
        assert_eq!(refused.message, "The chat template refuses this conversation: Only user.");
    }
}
