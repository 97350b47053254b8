//! Chat templates for models that carry none, as files; the names of LLaMA-Factory's `template` that mean the same.

use crate::Result;
use crate::entry::unknown;

/// Name and source of each template.
const TEMPLATES: &[(&str, &str)] = &[
    ("default", include_str!("../templates/default.jinja")),
    ("alpaca", include_str!("../templates/alpaca.jinja")),
    ("chatml", include_str!("../templates/chatml.jinja")),
    ("deepseek", include_str!("../templates/deepseek.jinja")),
    ("gemma", include_str!("../templates/gemma.jinja")),
    ("llama2", include_str!("../templates/llama2.jinja")),
    ("llama3", include_str!("../templates/llama3.jinja")),
    ("mistral", include_str!("../templates/mistral.jinja")),
    ("phi3", include_str!("../templates/phi3.jinja")),
    ("phi4", include_str!("../templates/phi4.jinja")),
    ("qwen", include_str!("../templates/qwen.jinja")),
    ("qwen3", include_str!("../templates/qwen3.jinja")),
    ("vicuna", include_str!("../templates/vicuna.jinja")),
    ("zephyr", include_str!("../templates/zephyr.jinja")),
];

/// Names of the templates, in the order of the form.
pub const NAMES: &[&str] = &names();

/// LLaMA-Factory's other names for the same.
const ALIASES: &[(&str, &str)] = &[
    ("deepseek3", "deepseek"),
    ("deepseekr1", "deepseek"),
    ("gemma2", "gemma"),
    ("llama3.1", "llama3"),
    ("llama3.2", "llama3"),
    ("mistral_small", "mistral"),
    ("phi", "phi3"),
    ("phi_small", "phi3"),
    ("qwen2", "qwen"),
    ("qwen2.5", "qwen"),
    ("qwen3_nothink", "qwen3"),
    ("smollm", "chatml"),
    ("smollm2", "chatml"),
    ("yi", "chatml"),
];

/// Source of the template of this name, or of the one that it is another name for.
pub fn named(name: &str) -> Option<&'static str> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

/// As [`named`]; an unknown name is a problem of the argument `template`.
pub fn find(name: &str) -> Result<&'static str> {
    named(name).ok_or_else(|| {
        let known = NAMES.iter().copied().chain(ALIASES.iter().map(|(alias, _)| *alias));
        unknown("unknown_template", ["chat template", "对话模板"], name, known).field("template").into()
    })
}

const fn names() -> [&'static str; TEMPLATES.len()] {
    let mut names = [""; TEMPLATES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TEMPLATES[i].0;
        i += 1;
    }
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::ChatTemplate;
    use api::data::Message;
    use serde_json::Map;

    #[test]
    fn every_name_has_a_template_that_ends_an_answer() {
        let messages = [Message::new("user", "QUESTION"), Message::new("assistant", "ANSWER")];
        for name in NAMES.iter().copied().chain(ALIASES.iter().map(|(alias, _)| *alias)) {
            let template = ChatTemplate::new(find(name).unwrap(), Some("<s>"), Some("</s>")).unwrap();
            let prompt = template.render(&messages[..1], None, true, &Map::new()).unwrap();
            let whole = template.render(&messages, None, false, &Map::new()).unwrap();
            let answer = whole.strip_prefix(&prompt).unwrap_or_else(|| panic!("{name}: {prompt:?} {whole:?}"));
            let end = answer.trim_start().strip_prefix("ANSWER").unwrap().trim();
            assert!(end.starts_with('<') && end.ends_with('>'), "{name}: {end:?}");
        }
        assert_eq!(find("lama3").unwrap_err().into_problem().hint, "Did you mean llama3?");
    }
}
