//! Calls of tools as models write them: JSON with a name and arguments, whatever stands around it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Deserializer, Value};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    pub name: String,
    /// JSON as text.
    #[serde(default)]
    pub arguments: String,
}

impl Call {
    /// The arguments as a value; the text itself if it isn't JSON.
    pub fn parsed(&self) -> Value {
        serde_json::from_str(&self.arguments).unwrap_or_else(|_| self.arguments.clone().into())
    }
}

/// Every call in a text of JSON values, one behind the other or in lists; nothing if anything else stands there.
pub fn parse(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    // Llama writes a semicolon between two calls.
    for part in text.split(";\n").flat_map(|part| Deserializer::from_str(part).into_iter::<Value>()) {
        match part.ok()? {
            Value::Array(list) => calls.extend(list.iter().map(call).collect::<Option<Vec<_>>>()?),
            value => calls.push(call(&value)?),
        }
    }
    (!calls.is_empty()).then_some(calls)
}

fn call(value: &Value) -> Option<Call> {
    // Some write {"type": "function", "function": {…}}.
    let value = value.get("function").filter(|function| function.is_object()).unwrap_or(value);
    let arguments = match value.get("arguments").or(value.get("parameters"))? {
        Value::Null => "{}".into(),
        Value::String(text) => text.clone(),
        arguments => arguments.to_string(),
    };
    Some(Call { name: value.get("name")?.as_str()?.to_owned(), arguments })
}

/// Where the text of one call may still become `{"name": …`.
pub fn may_begin(text: &str) -> bool {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).take(32).collect();
    ["{\"name\":", "[{\"name\":", "{\"type\":\"function\"", "[{\"type\":\"function\""]
        .iter()
        .any(|begin| begin.starts_with(&dense) || dense.starts_with(begin))
}

/// Of a call that is still being written: its name, and where its arguments begin, once both are there. Arguments that
/// are no object are waited for.
pub fn head(text: &str) -> Option<(String, usize)> {
    let rest = text.trim_start().strip_prefix('{')?.trim_start();
    let rest = rest.strip_prefix("\"name\"")?.trim_start().strip_prefix(':')?;
    let mut values = Deserializer::from_str(rest).into_iter::<String>();
    let name = values.next()?.ok()?;
    let rest = rest.get(values.byte_offset()..)?.trim_start().strip_prefix(',')?.trim_start();
    let rest = rest.strip_prefix("\"arguments\"").or_else(|| rest.strip_prefix("\"parameters\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    rest.starts_with('{').then(|| (name, text.len() - rest.len()))
}

/// Follows an object through its text to its last brace.
#[derive(Debug, Default)]
pub struct Braces {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

impl Braces {
    /// How many bytes of `text`, which goes on where the last one ended, belong to the object; and whether it ends there.
    pub fn follow(&mut self, text: &str) -> (usize, bool) {
        for (i, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_text => self.is_escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => self.depth += 1,
                b'}' | b']' if !self.in_text => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (i + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &str) -> Call {
        Call { name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn calls_are_read_in_every_form() {
        for text in [
            r#"{"name": "f", "arguments": {"a": 1}}"#,
            r#"{"name": "f", "parameters": {"a": 1}}"#,
            r#"[{"name": "f", "arguments": {"a": 1}}]"#,
            r#"{"name": "f", "arguments": "{\"a\":1}"}"#,
            r#"{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}"#,
        ] {
            assert_eq!(parse(text), Some(vec![call("f", r#"{"a":1}"#)]), "{text}");
        }
        let two = Some(vec![call("f", "{}"), call("g", "{}")]);
        for text in [
            r#"{"name":"f","arguments":{}} {"name":"g","arguments":null}"#,
            "{\"name\":\"f\",\"arguments\":{}};\n{\"name\":\"g\",\"arguments\":{}}",
            r#"[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]"#,
        ] {
            assert_eq!(parse(text), two, "{text}");
        }
        for text in ["", "hello", "{\"a\": 1}", "{\"name\": 1}", "{\"name\": \"f\"", "[]", "{\"name\":\"f\"} and more"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_call_is_known_by_its_beginning() {
        for text in ["", "{", "{ \"na", "[{\"name\" : \"x\"", "{\"name\": \"x\", \"arg"] {
            assert!(may_begin(text), "{text}");
        }
        for text in ["H", "{\"a\"", "{}", "[1", "\"name\""] {
            assert!(!may_begin(text), "{text}");
        }
        let text = r#" {"name": "a\"b", "arguments": {"x": 1"#;
        let (name, at) = head(text).unwrap();
        assert_eq!((name.as_str(), &text[at..]), ("a\"b", r#"{"x": 1"#));
        for text in [
            r#"{"name": "a"#,
            r#"{"name": "a", "argum"#,
            r#"{"name": "a", "arguments": "#,
            r#"{"name": "a", "arguments": "{"#,
        ] {
            assert_eq!(head(text), None, "{text}");
        }
    }

    #[test]
    fn an_object_ends_with_its_last_brace() {
        let text = r#"{"a": ["}", "\"}"], "b": {}}, 1}"#;
        let end = text.len() - 4;
        for cut in 0..end {
            let mut braces = Braces::default();
            assert_eq!(braces.follow(&text[..cut]), (cut, false), "{cut}");
            assert_eq!(braces.follow(&text[cut..]), (end - cut, true), "{cut}");
        }
    }
}
