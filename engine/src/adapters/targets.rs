//! Which linears a tuning type changes, by PEFT's rules.

use crate::{Result, files::adapter::Targets, model::Layout};
use api::Problem;
use std::collections::BTreeSet;

/// A list matches whole names or their ends, a pattern whole names.
pub enum Target {
    All,
    Names(Vec<String>),
    Pattern(regex::Regex),
}

impl Target {
    /// From `all`, names between commas, or a regular expression, given as the argument `field`.
    pub fn parse(text: &str, field: &str) -> Result<Self> {
        let names: Vec<String> = text.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        if names.iter().any(|n| n == "all" || n == "all-linear") {
            return Ok(Self::All);
        }
        let plain = |n: &String| n.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !names.is_empty() && names.iter().all(plain) {
            return Ok(Self::Names(names));
        }
        Ok(Self::Pattern(pattern(text, field)?))
    }

    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|n| ends_with(name, n)),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }

    /// `target_modules` as PEFT reads it: a list, or a pattern. `linears` are the names of those that match.
    pub fn peft(&self, linears: &[String]) -> Targets {
        match self {
            Self::All => Targets::Names(last_parts(linears.iter().map(String::as_str))),
            Self::Names(names) => Targets::Names(names.clone()),
            Self::Pattern(p) => Targets::Pattern(p.as_str().trim_start_matches("^(?:").trim_end_matches(")$").into()),
        }
    }
}

/// A regular expression over whole names.
pub fn pattern(text: &str, field: &str) -> Result<regex::Regex> {
    Ok(regex::Regex::new(&format!("^(?:{text})$")).map_err(|e| {
        let reason = e.to_string().replace('\n', " ");
        Problem::new(
            "bad_target",
            format!("{field} {text:?} is no regular expression: {reason}."),
            format!("{field} {text:?} 不是有效的正则表达式：{reason}。"),
        )
        .hint("Use all, or names such as q_proj,v_proj.", "可用 all，或 q_proj,v_proj 这样的名称。")
        .field(field)
    })?)
}

/// Whether a module's name is `end`, or ends in it.
pub fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// The last parts of names, each once, in their order.
pub fn last_parts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter_map(|name| name.rsplit('.').next()).filter(|part| seen.insert(*part)).map(str::to_owned).collect()
}

/// The problem of an argument that matches no linear of the model.
pub fn no_target(field: &str, layout: &dyn Layout) -> Problem {
    let all = layout.linears();
    let known = last_parts(all.iter().map(|linear| linear.name.as_str())).join(", ");
    Problem::new(
        "no_target",
        format!("{field} matches no linear of this model."),
        format!("{field} 不匹配此模型的任何线性层。"),
    )
    .hint(format!("Use all, or some of {known}."), format!("可用 all，或其中一些：{known}。"))
    .field(field)
}
