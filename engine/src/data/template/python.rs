//! Methods of Python's texts that minijinja's own set lacks or does otherwise.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Calls one of them, or minijinja's.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().filter(|_| value.kind() == ValueKind::String);
    match text.map(|text| of_text(text, name, args)).transpose()?.flatten() {
        Some(made) => Ok(made),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let wrong = |why: &str| Error::new(ErrorKind::InvalidOperation, why.to_string());
    Ok(Some(match name {
        "split" | "rsplit" => {
            let (separator, limit, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(options.get("sep")?).filter(|separator| !separator.is_none());
            let limit = limit.or(options.get("maxsplit")?);
            options.assert_all_used()?;
            let separator =
                separator.map(|s| s.as_str().map(String::from).ok_or_else(|| wrong("must be str"))).transpose()?;
            let limit = limit.filter(|n| *n >= 0).map_or(usize::MAX, |n| (n as usize).saturating_add(1));
            let parts: Vec<&str> = match (separator.as_deref(), name) {
                (Some(""), _) => return Err(wrong("empty separator")),
                (Some(separator), "split") => text.splitn(limit, separator).collect(),
                (Some(separator), _) => reversed(text.rsplitn(limit, separator).collect()),
                (None, "split") => words(text, limit),
                (None, _) => reversed(last_words(text, limit)),
            };
            Value::from_iter(parts)
        }
        "index" | "rfind" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            match at {
                Some(at) => Value::from(text[..at].chars().count()),
                None if name == "rfind" => Value::from(-1),
                None => return Err(wrong("substring not found")),
            }
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match name {
                "partition" => text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
            };
            Value::from(minijinja::value::Tuple::from(parts.map(Value::from).to_vec()))
        }
        "ljust" | "rjust" | "zfill" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
            let missing = width.min(MAX_WIDTH).saturating_sub(text.chars().count());
            let (sign, digits) = match name {
                "zfill" => text.split_at(usize::from(text.starts_with(['+', '-']))),
                _ => ("", text),
            };
            let space = fill.repeat(missing);
            Value::from(if name == "ljust" { format!("{text}{space}") } else { format!("{sign}{space}{digits}") })
        }
        "title" => {
            let mut inside = false;
            let title = text.chars().flat_map(|c| {
                let first = !std::mem::replace(&mut inside, c.is_alphabetic());
                if first { c.to_uppercase().collect::<Vec<_>>() } else { c.to_lowercase().collect() }
            });
            Value::from(title.collect::<String>())
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(char::is_whitespace)),
        _ => return Ok(None),
    }))
}

/// Wider texts than this aren't made.
const MAX_WIDTH: usize = 10_000;

fn reversed(mut parts: Vec<&str>) -> Vec<&str> {
    parts.reverse();
    parts
}

/// The text at white space, into so many parts at most.
fn words(text: &str, limit: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| parts.len() + 1 < limit).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

/// As [`words`], from the end.
fn last_words(text: &str, limit: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        let space = rest.char_indices().rfind(|(_, c)| c.is_whitespace()).filter(|_| parts.len() + 1 < limit);
        let start = space.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts
}
