//! The interface's words in English and 简体中文. A word is one line with both; one that lacks a language doesn't compile.

mod words;

pub use words::{CHINESE, ENGLISH, Words};

use api::catalog::Text;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Chinese,
}

impl Language {
    /// From a language tag such as `zh-CN` or `en`.
    pub fn from_tag(tag: &str) -> Self {
        if tag.to_ascii_lowercase().starts_with("zh") { Self::Chinese } else { Self::English }
    }

    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh-CN",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::English => Self::Chinese,
            Self::Chinese => Self::English,
        }
    }

    pub fn words(self) -> &'static Words {
        match self {
            Self::English => &ENGLISH,
            Self::Chinese => &CHINESE,
        }
    }

    pub fn of(self, text: &Text) -> String {
        text.get(self.tag()).to_owned()
    }
}

/// Puts values into the named slots of a sentence: `fill("{n} rows", &[("n", "91")])`.
pub fn fill(text: &str, slots: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        let tail = &rest[start + 1..];
        let end = tail.find('}').unwrap_or(tail.len());
        if let Some((_, value)) = slots.iter().find(|(name, _)| *name == &tail[..end]) {
            out.push_str(value);
        }
        rest = tail.get(end + 1..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_filled_once_and_never_again() {
        assert_eq!(fill("step {done} of {total}", &[("done", "{total}"), ("total", "9")]), "step {total} of 9");
        assert_eq!(fill("no slots", &[]), "no slots");
        assert_eq!(fill("open {n", &[("n", "1")]), "open 1");
    }

    #[test]
    fn both_languages_have_every_word_and_the_same_slots() {
        let slots = |text: &str| {
            let mut found: Vec<String> =
                text.split('{').skip(1).filter_map(|part| part.split_once('}').map(|(n, _)| n.to_owned())).collect();
            found.sort();
            found
        };
        for ((name, en), (_, zh)) in ENGLISH.all().into_iter().zip(CHINESE.all()) {
            assert!(!en.is_empty() && !zh.is_empty(), "{name} is empty");
            assert_eq!(slots(en), slots(zh), "{name} has other slots in Chinese");
        }
    }

    #[test]
    fn language_tags() {
        assert_eq!(Language::from_tag("zh-Hans-CN"), Language::Chinese);
        assert_eq!(Language::from_tag("de"), Language::English);
    }
}
