//! What reaches a person when something is wrong: the thing, its value, the bound, and the next step.

use crate::catalog::Text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One problem. `message` names the thing and gives the number; `hint` is the next action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Stable word for programs, for example `dataset_not_json`.
    pub code: String,
    /// English sentence that names the thing.
    pub message: String,
    /// English sentence that says what to do next; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// What one can do next, where that is more than one thing: each is enough, the best comes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Text>,
    /// The argument that it belongs to, for example `lora_rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The same message and hint in Chinese.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zh: Option<Chinese>,
}

/// The Chinese wording of a [`Problem`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Chinese {
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Problem {
    /// A problem in both languages.
    pub fn new(code: &str, en: impl Into<String>, zh: impl Into<String>) -> Self {
        let zh = Chinese { message: zh.into(), hint: String::new() };
        Self { code: code.into(), message: en.into(), zh: Some(zh), ..Self::default() }
    }

    /// The next step, in both languages.
    pub fn hint(mut self, en: impl Into<String>, zh: impl Into<String>) -> Self {
        self.hint = en.into();
        self.zh.get_or_insert_with(Chinese::default).hint = zh.into();
        self
    }

    /// One of several next steps, in both languages.
    pub fn step(mut self, en: impl Into<String>, zh: impl Into<String>) -> Self {
        self.steps.push(Text::new(en, zh));
        self
    }

    /// More next steps.
    pub fn steps(mut self, steps: impl IntoIterator<Item = Text>) -> Self {
        self.steps.extend(steps);
        self
    }

    /// The argument that the problem belongs to.
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Message in the language asked for (`zh` or anything else for English).
    pub fn message_in(&self, language: &str) -> &str {
        match &self.zh {
            Some(zh) if language.starts_with("zh") && !zh.message.is_empty() => &zh.message,
            _ => &self.message,
        }
    }

    /// The one thing to do next, for places with room for no more.
    pub fn next_in(&self, language: &str) -> &str {
        let hint = self.hint_in(language);
        if hint.is_empty() { self.steps.first().map_or("", |step| step.get(language)) } else { hint }
    }

    /// Hint in the language asked for.
    pub fn hint_in(&self, language: &str) -> &str {
        match &self.zh {
            Some(zh) if language.starts_with("zh") && !zh.hint.is_empty() => &zh.hint,
            _ => &self.hint,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) if !self.message.contains(field.as_str()) => write!(f, "{field}: {}", self.message)?,
            _ => f.write_str(&self.message)?,
        }
        if !self.hint.is_empty() {
            write!(f, " {}", self.hint)?;
        }
        self.steps.iter().try_for_each(|step| write!(f, " {}", step.en))
    }
}

impl std::error::Error for Problem {}

/// All problems of a request at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok(value)` if nothing was found, otherwise every problem.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The body of every failed `/api` answer (RFC 9457): the first problem as title and detail, all of them beside it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProblemBody {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub problems: Vec<Problem>,
}
