//! Chat templates as minijinja takes them: what differs from Python's Jinja is written otherwise.

use std::sync::LazyLock;

/// The variables whose texts are put where a `{% generation %}` begins and ends.
pub const GENERATION: [&str; 2] = ["generation_begins", "generation_ends"];

/// The filter that each loop's list goes through.
pub const ITERABLE: &str = "iterable_";

/// The template in other words, and whether it marks its answers.
pub fn adapted(source: &str) -> (String, bool) {
    let source = joined_lines(source);
    let source = if source.contains("endraw") { source } else { with_checked_loops(&source) };
    let plain = without_generation_tags(&source);
    let marks_answers = plain != source;
    (plain, marks_answers)
}

/// Words and signs of the longest `{{ }}` or `{% %}`, texts in quotes left out.
pub fn longest_tag(source: &str) -> usize {
    let (mut longest, mut count, mut braces) = (0, 0, 0_usize);
    let (mut inside, mut comment, mut in_word, mut quote) = (false, false, false, None);
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match quote {
            Some(_) if c == '\\' => drop(chars.next()),
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if comment => comment = !(c == '#' && next == Some('}')),
            None if !inside => {
                comment = c == '{' && next == Some('#');
                inside = c == '{' && matches!(next, Some('%' | '{'));
                if inside {
                    (count, braces) = (0, 0);
                    chars.next();
                }
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            None if braces == 0 && matches!((c, next), ('%' | '}', Some('}'))) => inside = false,
            None => {
                match c {
                    '{' => braces += 1,
                    '}' => braces = braces.saturating_sub(1),
                    _ => {}
                }
                let is_word = c.is_alphanumeric() || c == '_';
                if !(c.is_whitespace() || is_word && in_word) {
                    count += 1;
                    longest = longest.max(count);
                }
                in_word = is_word;
            }
        }
    }
    longest
}

/// In Python's string literals a backslash at the end of a line joins it with the next; minijinja's know no such escape.
/// Takes these two characters out of the literals inside `{{ }}` and `{% %}`.
fn joined_lines(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let (mut inside, mut comment, mut quote) = (false, false, None);
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied();
        match quote {
            Some(_) if c == '\\' && next == Some('\n') => {
                chars.next();
                continue;
            }
            Some(_) if c == '\\' => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if inside && (c == '\'' || c == '"') => quote = Some(c),
            None if inside && matches!((c, next), ('%' | '}', Some('}'))) => inside = false,
            None if comment && c == '#' && next == Some('}') => comment = false,
            None if !inside && !comment && c == '{' => {
                inside = matches!(next, Some('%' | '{'));
                comment = next == Some('#');
            }
            None => {}
        }
        out.push(c);
    }
    out
}

/// Puts [`ITERABLE`] behind the list of every `{% for … in … %}`. The list ends at `if` or `recursive` outside of brackets,
/// as in Jinja's grammar.
fn with_checked_loops(source: &str) -> String {
    static FOR: LazyLock<Option<regex::Regex>> =
        LazyLock::new(|| regex::Regex::new(r"\{%[-+]?\s*for\s+[\w\s,()]+?\s+in\s").ok());
    let Some(tag) = &*FOR else { return source.to_string() };
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(found) = tag.find(rest) {
        let (before, list) = rest.split_at(found.end());
        let length = list_length(list);
        out.push_str(before);
        out.push_str(&format!("({})|{ITERABLE} ", &list[..length]));
        rest = &list[length..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the list at the beginning of what follows `in`.
fn list_length(text: &str) -> usize {
    let (mut depth, mut quote, mut word) = (0usize, None, 0);
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        if let Some(open) = quote {
            (quote, escaped) = (Some(open).filter(|open| c != *open || escaped), c == '\\' && !escaped);
            continue;
        }
        if !(c.is_alphanumeric() || c == '_') {
            if depth == 0 && matches!(&text[word..i], "if" | "recursive") {
                return word;
            }
            word = i + c.len_utf8();
        }
        match c {
            '\'' | '"' => quote = Some(c),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            '%' | '-' | '+' if depth == 0 && text[i..].trim_start_matches(['-', '+']).starts_with("%}") => return i,
            _ => {}
        }
    }
    text.len()
}

/// transformers' templates may mark the answers with `{% generation %}`. In the place of the tags stand variables that are
/// only set by who looks for the answers, between blocks that keep the tags' control of white space.
fn without_generation_tags(source: &str) -> String {
    static TAG: LazyLock<Option<regex::Regex>> =
        LazyLock::new(|| regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());
    match &*TAG {
        Some(tag) if source.contains("generation") => tag
            .replace_all(source, |c: &regex::Captures| {
                let [begins, ends] = GENERATION;
                let (left, right) = (&c[1], &c[3]);
                match c.get(2) {
                    None => format!("{{%{left} if true %}}{{% endif %}}{{{{ {begins} }}}}{{% if true {right}%}}"),
                    Some(_) => format!("{{%{left} endif %}}{{{{ {ends} }}}}{{% if true %}}{{% endif {right}%}}"),
                }
            })
            .into_owned(),
        _ => source.to_string(),
    }
}
