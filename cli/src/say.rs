//! What goes to stdout and stderr. A reader that went away is no error.

use crate::outcome::Failure;
use api::Problem;
use serde::Serialize;
use std::io::Write;

pub struct Say {
    /// `--json`: stdout carries JSON and nothing else.
    pub json: bool,
    /// Language of messages, for example `zh_CN.UTF-8`.
    pub language: String,
}

impl Say {
    /// The result: as one line of JSON, or as text.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            self.json(value);
        } else {
            let text = text();
            if !text.is_empty() {
                self.line(&text);
            }
        }
    }

    /// One line of JSON on stdout.
    pub fn json(&self, value: &impl Serialize) {
        if let Ok(line) = serde_json::to_string(value) {
            self.line(&line);
        }
    }

    pub fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Text without a line feed after it.
    pub fn exactly(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "{text}").and_then(|()| out.flush());
    }

    /// For people only, beside the result.
    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// A text of ours in the person's language.
    pub fn text<'a>(&self, text: &'a api::Text) -> &'a str {
        text.get(&self.language)
    }

    /// Each problem on stderr, and all of them as JSON if that was asked for.
    pub fn failure(&self, failure: &Failure) {
        for problem in &failure.problems {
            self.note(&self.problem(problem));
        }
        if self.json && !failure.is_told {
            self.json(&serde_json::json!({ "problems": failure.problems }));
        }
    }

    /// `error: field: message`, and each next step on a line of its own.
    pub fn problem(&self, problem: &Problem) -> String {
        let error = if self.is_chinese() { "错误：" } else { "error: " };
        format!("{error}{}", self.warning(problem))
    }

    /// The same of what stops nothing.
    pub fn warning(&self, problem: &Problem) -> String {
        let message = problem.message_in(&self.language);
        let hint = problem.hint_in(&self.language);
        let field = problem.field.as_ref().filter(|field| !message.contains(field.as_str()));
        let field = field.map(|field| format!("{field}: ")).unwrap_or_default();
        let hint = if hint.is_empty() { String::new() } else { format!("\n  {hint}") };
        let steps: String = problem.steps.iter().map(|step| format!("\n  - {}", self.text(step))).collect();
        format!("{field}{message}{hint}{steps}")
    }

    pub fn is_chinese(&self) -> bool {
        self.language.starts_with("zh")
    }
}
