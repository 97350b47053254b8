//! Ollama's Modelfile. Its template is Go's; what a model's own template writes around messages is found by rendering a
//! conversation with words that nobody says.

use crate::{Result, data::Encoder};
use api::data::Message;
use serde_json::Map;

const SYSTEM: &str = "\u{1}system\u{1}";
const USER: &str = "\u{1}user\u{1}";
const ANSWER: &str = "\u{1}answer\u{1}";
/// Positions that Ollama is told of at most; more cost memory that a laptop may not have.
const CONTEXT: usize = 8192;

/// The Modelfile beside the file or folder `from`.
pub fn modelfile(from: &str, encoder: &Encoder, context: usize) -> String {
    let mut out = format!("FROM {from}\n");
    // Without a template of its own Ollama looks for one in the GGUF.
    if let Some(Around { template, system, stop }) = Around::of(encoder).ok().flatten() {
        out += &format!("\nTEMPLATE \"\"\"{template}\"\"\"\n");
        if let Some(system) = system {
            out += &format!("\nSYSTEM \"\"\"{system}\"\"\"\n");
        }
        out += &format!("\nPARAMETER stop {stop:?}\n");
    }
    out + &format!("PARAMETER num_ctx {}\n", context.min(CONTEXT))
}

struct Around {
    template: String,
    /// What the template says where the conversation has no system message.
    system: Option<String>,
    stop: String,
}

impl Around {
    /// None where the template has another form than `system, (user, answer)*`.
    fn of(encoder: &Encoder) -> Result<Option<Self>> {
        let render = |messages: &[(&str, &str)]| {
            let messages: Vec<Message> = messages.iter().map(|(role, text)| Message::new(role, *text)).collect();
            encoder.template().render(&messages, None, true, &Map::new())
        };
        let whole = render(&[("system", SYSTEM), ("user", USER), ("assistant", ANSWER), ("user", USER)])?;
        let plain = render(&[("user", USER)])?;
        let bos = encoder.special().bos.as_ref().map_or("", |(text, _)| text.as_str());
        let eos = encoder.special().eos.as_ref().map_or("", |(text, _)| text.as_str());
        Ok(Self::found(&whole, &plain, bos, eos))
    }

    fn found(whole: &str, plain: &str, bos: &str, eos: &str) -> Option<Self> {
        let (before_system, rest) = whole.split_once(SYSTEM)?;
        let (before_first, rest) = rest.split_once(USER)?;
        let (before_answer, rest) = rest.split_once(ANSWER)?;
        let (before_second, after_second) = rest.split_once(USER)?;
        let (start, end) = plain.split_once(USER)?;
        if before_answer != after_second || before_answer != end || eos.is_empty() {
            return None;
        }
        // An answer ends with its token and the white space behind it; the next question begins after that.
        let ended = before_second.find(eos)? + eos.len();
        let space = before_second[ended..].len() - before_second[ended..].trim_start().len();
        let (end_of_answer, before_user) = before_second.split_at(ended + space);
        let end_of_system = before_first.strip_suffix(before_user)?;
        // The first token is put there by the tokenizer.
        let (before_system, start) = (without(before_system, bos), without(start, bos));
        let own = start.strip_suffix(before_user)?;
        let system = match own {
            "" => None,
            own => Some(own.strip_prefix(before_system)?.strip_suffix(end_of_system)?.to_string()),
        };
        let template = format!(
            "{{{{ if .System }}}}{before_system}{{{{ .System }}}}{end_of_system}{{{{ end }}}}{{{{ range .Messages }}}}\
             {{{{ if eq .Role \"user\" }}}}{before_user}{{{{ .Content }}}}{before_answer}\
             {{{{ else if eq .Role \"assistant\" }}}}{{{{ .Content }}}}{end_of_answer}{{{{ end }}}}{{{{ end }}}}"
        );
        Some(Self { template, system, stop: eos.to_string() })
    }
}

fn without<'a>(text: &'a str, bos: &str) -> &'a str {
    text.strip_prefix(bos).unwrap_or(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::template::{ChatTemplate, find};

    fn around(source: &str, bos: &str, eos: &str) -> Option<Around> {
        let template = ChatTemplate::new(source, Some(bos), Some(eos)).unwrap();
        let render = |messages: &[(&str, &str)]| {
            let messages: Vec<Message> = messages.iter().map(|(role, text)| Message::new(role, *text)).collect();
            template.render(&messages, None, true, &Map::new()).unwrap()
        };
        let whole = render(&[("system", SYSTEM), ("user", USER), ("assistant", ANSWER), ("user", USER)]);
        Around::found(&whole, &render(&[("user", USER)]), bos, eos)
    }

    const CHATML: &str = "{% for message in messages %}{% if loop.first and message.role != 'system' %}\
        {{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message.role + '\n' + \
        message.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn templates_become_go() {
        let found = around(CHATML, "<s>", "<|im_end|>").unwrap();
        assert_eq!(
            found.template,
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ range .Messages }}\
             {{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n\
             {{ else if eq .Role \"assistant\" }}{{ .Content }}<|im_end|>\n{{ end }}{{ end }}"
        );
        assert_eq!(found.system.as_deref(), Some("Be kind."));
    }

    #[test]
    fn a_first_token_is_left_to_the_tokenizer() {
        let found = around(find("llama3").unwrap(), "<|begin_of_text|>", "<|eot_id|>").unwrap();
        assert!(found.template.starts_with("{{ if .System }}<|start_header_id|>system"), "{}", found.template);
        assert!(found.template.contains("{{ .Content }}<|eot_id|>{{ end }}"), "{}", found.template);
        assert_eq!(found.system, None);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert!(around("{% for m in messages %}{{ m.content }}{% endfor %}", "", "</s>").is_none());
    }
}
