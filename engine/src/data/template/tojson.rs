//! Python's `json.dumps` as transformers' `tojson` calls it: no HTML escapes, keys in order, `ensure_ascii` off.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Arguments of `json.dumps`.
#[derive(Debug, Default)]
pub struct Style {
    /// Spaces of an indent; each item then has a line of its own.
    pub indent: Option<usize>,
    /// Between items, and between key and value.
    pub separators: Option<Vec<String>>,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

/// Deeper values than this are refused.
const DEPTH: usize = 64;

pub fn dumps(value: &Value, style: &Style) -> Result<String, Error> {
    let default = [if style.indent.is_some() { "," } else { ", " }, ": "];
    let [item, key] = match style.separators.as_deref() {
        Some([item, key]) => [item.as_str(), key.as_str()],
        None => default,
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair of texts")),
    };
    let mut writer = Writer { out: String::new(), style, item, key };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    style: &'a Style,
    item: &'a str,
    key: &'a str,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "the value is nested too deeply"));
        }
        if self.out.len() > super::MAX_OUTPUT {
            return Err(Error::new(ErrorKind::WriteFailure, "the JSON is too long"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', items.len(), depth, |writer, i| writer.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.list('{', '}', keys.len(), depth, |writer, i| {
                    let key = &keys[i];
                    match key.kind() {
                        ValueKind::String => writer.text(key.as_str().unwrap_or_default()),
                        ValueKind::None => writer.out.push_str("\"null\""),
                        ValueKind::Bool => writer.out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
                        _ => {
                            let text = number(key);
                            writer.text(&text);
                        }
                    }
                    writer.out.push_str(writer.key);
                    writer.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            other => {
                return Err(Error::new(ErrorKind::BadSerialization, format!("{other} is not JSON serializable")));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        len: usize,
        depth: usize,
        mut write: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..len {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.line(depth + 1);
            write(self, i)?;
        }
        if len > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.style.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(64) * depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number as Python writes it: `1.0`, `1e-05`, `1e+16`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(x) = f64::try_from(value.clone()) else { return value.to_string() };
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = format!("{x}");
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use serde_json::json;

    fn json(value: serde_json::Value, style: Style) -> String {
        dumps(&Value::from(Serde(value)), &style).unwrap()
    }

    #[test]
    fn numbers_are_pythons() {
        let value =
            json!([1.0, 1e-5, 1e16, 0.1, -0.0, 123456789012345680.0, 1e15, 5e-324, 18446744073709551615u64, -3]);
        let wanted = "[1.0, 1e-05, 1e+16, 0.1, -0.0, 1.2345678901234568e+17, 1000000000000000.0, 5e-324, 18446744073709551615, -3]";
        assert_eq!(json(value, Style::default()), wanted);
    }

    #[test]
    fn style_is_pythons() {
        let value = json!({"b": "<é\u{7f}\u{1}😸/>", "a": [1, {}], "c": []});
        assert_eq!(
            json(value.clone(), Style::default()),
            "{\"b\": \"<é\u{7f}\\u0001😸/>\", \"a\": [1, {}], \"c\": []}"
        );
        let style = Style { indent: Some(2), sort_keys: true, ensure_ascii: true, ..Style::default() };
        let wanted =
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": \"<\\u00e9\\u007f\\u0001\\ud83d\\ude38/>\",\n  \"c\": []\n}";
        assert_eq!(json(value, style), wanted);
        let style = Style { separators: Some(vec![",".into(), ":".into()]), ..Style::default() };
        assert_eq!(json(json!({"a": [1, 2]}), style), "{\"a\":[1,2]}");
    }
}
