//! Where the answers stand in a rendered conversation.
//!
//! transformers' templates don't say which part of their text an answer is, so it is found by rendering. Each answer is
//! rendered once more between marks that no text holds, which gives the place of its content; rendering the messages
//! before it with the generation prompt gives its beginning, rendering the messages up to it gives what ends it.
//! The rules:
//!
//! 1. An answer begins where the generation prompt for it ends, if the whole text begins with that prompt (so thoughts
//!    that stand between are trained). Where the template writes history in another way than a prompt, it begins with its
//!    content.
//! 2. It ends with what the template puts after its content both when it is the last message and when a question follows,
//!    without white space at the end: in ChatML `<|im_end|>` is trained, the line feed after it isn't, nor is an end of
//!    text or the beginning of an answer that some templates put after everything.
//! 3. Rendered with and without marks, the text must be the same, and an answer without a place of its own (a tool call)
//!    must be told by its prompt and its end. Otherwise the row is a problem: no mask is guessed.

use crate::Result;
use crate::data::{ChatTemplate, example};
use api::{Problem, data::Message};
use serde_json::{Map, Value};
use std::ops::Range;

/// A conversation as text, and the spans of its answers in bytes, in order.
#[derive(Debug)]
pub struct Answers {
    pub text: String,
    pub spans: Vec<Range<usize>>,
}

impl Answers {
    pub fn find(
        template: &ChatTemplate,
        messages: &[Message],
        tools: Option<&Value>,
        extra: &Map<String, Value>,
    ) -> Result<Self> {
        let render = |messages: &[Message], prompt: bool| template.render(messages, tools, prompt, extra);
        let text = render(messages, false)?;
        let marked = Marked::of(messages, template.takes_calls());
        let contents = marked.places(render(&marked.messages, false).ok(), &text);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| example::is_answer(m)) {
            let prompt = render(&messages[..i], true).ok().filter(|prompt| text.starts_with(prompt.as_str()));
            let upto = &messages[..=i];
            let place = contents.get(i).cloned().flatten();
            let span = match place {
                Some(content) => {
                    let start = match &prompt {
                        Some(prompt) if prompt.len() <= content.start => prompt.len(),
                        // A space before the first word may be part of its token.
                        _ => text[..content.start].trim_end_matches(' ').len(),
                    };
                    let rest = &text[content.end..];
                    // What follows the content where it is the last message, and where it isn't.
                    let after = |messages: &[Message]| {
                        let marked = Marked::of(messages, template.takes_calls());
                        let text = render(messages, false).ok()?;
                        let place =
                            marked.places(render(&marked.messages, false).ok(), &text).get(i).cloned().flatten()?;
                        Some(text[place.end..].to_string())
                    };
                    let ending = if upto.len() < messages.len() {
                        after(upto).map_or(0, |last| ending(&last, rest, template.eos()))
                    } else if rest.trim().contains(char::is_whitespace) {
                        let asked: Vec<Message> = upto.iter().cloned().chain([Message::new("user", "?")]).collect();
                        after(&asked).map_or(rest.trim_end().len(), |next| ending(rest, &next, template.eos()))
                    } else {
                        rest.trim_end().len()
                    };
                    start..content.end + ending
                }
                None => {
                    let whole = render(upto, false)?;
                    let (Some(prompt), Some(end)) = (prompt, common(&whole, &text, template.eos())) else {
                        return Err(unclear(i, message).into());
                    };
                    prompt.len()..end
                }
            };
            if span.start > span.end || spans.last().is_some_and(|last| span.start < last.end) {
                return Err(unclear(i, message).into());
            }
            spans.push(span);
        }
        Ok(Self { text, spans })
    }
}

/// Messages with marks around the visible part of each answer: what stands after its thoughts, without white space around.
struct Marked {
    messages: Vec<Message>,
}

/// Characters of a plane for private use: no text that a model reads has them. Two for each message.
const FIRST: u32 = 0xF_0000;
const LAST: u32 = 0xF_FFFD;

impl Marked {
    fn of(messages: &[Message], takes_calls: bool) -> Self {
        let mark = |(i, message): (usize, &Message)| {
            let text = message.role == "assistant" || (message.role == "function" && !takes_calls);
            let place = FIRST + 2 * i as u32;
            let (Some(open), Some(close), true) =
                (char::from_u32(place), char::from_u32(place + 1), text && place < LAST)
            else {
                return message.clone();
            };
            let content = &message.content;
            let visible = content.rfind("</think>").map_or(0, |at| at + "</think>".len());
            let start = visible + content[visible..].len() - content[visible..].trim_start().len();
            let end = content.trim_end().len();
            if start >= end {
                return message.clone();
            }
            let (before, core, after) = (&content[..start], &content[start..end], &content[end..]);
            Message::new(&message.role, format!("{before}{open}{core}{close}{after}"))
        };
        Self { messages: messages.iter().enumerate().map(mark).collect() }
    }

    /// The place of each message's marked part in `plain`; none at all if `marked` isn't the same text with marks, and
    /// none for a message that doesn't stand there exactly once.
    fn places(&self, marked: Option<String>, plain: &str) -> Vec<Option<Range<usize>>> {
        let none = vec![None; self.messages.len()];
        let is_mark = |c: char| (FIRST..=LAST).contains(&(c as u32));
        let Some(marked) = marked.filter(|_| !plain.contains(is_mark)) else { return none };
        let mut seen: Vec<[Vec<usize>; 2]> = vec![Default::default(); self.messages.len()];
        let mut stripped = String::with_capacity(plain.len());
        for c in marked.chars() {
            if is_mark(c) {
                let place = c as u32 - FIRST;
                if let Some(seen) = seen.get_mut(place as usize / 2) {
                    seen[place as usize % 2].push(stripped.len());
                }
            } else {
                stripped.push(c);
            }
        }
        if stripped != plain {
            return none;
        }
        let place = |[open, close]: &[Vec<usize>; 2]| match (open.as_slice(), close.as_slice()) {
            ([open], [close]) if open <= close => Some(*open..*close),
            _ => None,
        };
        seen.iter().map(place).collect()
    }
}

/// Length of the end of an answer, without white space at its end: what stands after its content both where it is the last
/// message (`last`) and where a question follows (`next`).
fn ending(last: &str, next: &str, eos: Option<&str>) -> usize {
    let without = eos.and_then(|eos| last.trim_end().strip_suffix(eos));
    if let Some(whole) = [Some(last), without].into_iter().flatten().find(|last| next.starts_with(last)) {
        return whole.trim_end().len();
    }
    // Both go on, in different ways, perhaps inside a token: the first word that is whole.
    let common = last.char_indices().zip(next.chars()).find(|((_, a), b)| a != b).map_or(next.len(), |((i, _), _)| i);
    let common = &last[..common.min(last.len())];
    let word = common.split_whitespace().next().map_or(0, |word| common.find(word).unwrap_or(0) + word.len());
    if word < common.len() {
        return word;
    }
    common.rfind(['>', ']']).map_or(0, |i| i + 1)
}

/// The length, without white space at the end, of `whole` as the beginning of `text`.
fn common(whole: &str, text: &str, eos: Option<&str>) -> Option<usize> {
    let without = eos.and_then(|eos| whole.trim_end().strip_suffix(eos));
    [Some(whole), without].into_iter().flatten().find(|w| text.starts_with(w)).map(|w| w.trim_end().len())
}

fn unclear(index: usize, message: &Message) -> Problem {
    let shown: String = message.content.chars().take(30).collect();
    let number = index + 1;
    Problem::new(
        "template_mask",
        format!("the chat template changes message {number} ({shown:?}) so that its place can't be found."),
        format!("对话模板改动了第 {number} 条消息（“{shown}”），无法确定其位置。"),
    )
    .hint(
        "Choose another template, or set train_on_prompt to learn the whole text.",
        "请选择其他模板，或设置 train_on_prompt 以学习全文。",
    )
    .field("template")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spans(source: &str, turns: &[(&str, &str)]) -> Result<Vec<String>> {
        let template = ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap();
        let messages: Vec<Message> = turns.iter().map(|(role, content)| Message::new(role, *content)).collect();
        let found = Answers::find(&template, &messages, None, &Map::new())?;
        Ok(found.spans.iter().map(|span| found.text[span.clone()].to_string()).collect())
    }

    const TURNS: &[(&str, &str)] =
        &[("user", "u"), ("assistant", "u"), ("user", "v"), ("assistant", " <think>t</think>\n\na ")];

    #[test]
    fn an_end_of_text_after_everything_is_no_end_of_an_answer() {
        let phi = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}\
                   {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
        assert_eq!(spans(phi, TURNS).unwrap(), ["u<|end|>", " <think>t</think>\n\na <|end|>"]);
    }

    #[test]
    fn a_prompt_after_everything_is_no_end_of_an_answer() {
        let command = "{% for m in messages %}{{ '<START><' + m.role + '>' + m.content + '<RESPONSE><END>\n' }}{% endfor %}\
                       <START><assistant>";
        assert_eq!(spans(command, &TURNS[..2]).unwrap(), ["u<RESPONSE><END>"]);
        assert_eq!(spans(command, TURNS).unwrap()[0], "u<RESPONSE><END>");
    }

    #[test]
    fn thoughts_that_are_taken_out_are_not_trained() {
        let strip = "{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}{% else %}\
                     {{ '<A>' + m.content.split('</think>')[-1] | trim + '</s>' }}{% endif %}{% endfor %}\
                     {% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}";
        assert_eq!(spans(strip, TURNS).unwrap(), ["u</s>", "a</s>"]);
    }

    #[test]
    fn thoughts_that_the_template_adds_to_the_last_answer_are_trained_there_only() {
        let qwen = "{% for m in messages %}{{ '<' + m.role + '>\n' }}\
                    {% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
                    {{ m.content + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}";
        let turns = [("user", "u"), ("assistant", "x"), ("user", "v"), ("assistant", "y")];
        assert_eq!(spans(qwen, &turns).unwrap(), ["x<end>", "<think>\n\n</think>\n\ny<end>"]);
    }

    #[test]
    fn history_that_is_written_differently_gives_the_content() {
        // The system message moves to the last question, as Mistral's template does.
        let moving = "{{ bos_token }}{% for m in messages[1:] %}{% if m.role == 'user' %}{{ '[INST] ' }}\
                      {% if loop.last or loop.revindex == 2 %}{{ messages[0].content + ' ' }}{% endif %}{{ m.content + ' [/INST]' }}\
                      {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";
        let turns = [("system", "s"), ("user", "u"), ("assistant", "x"), ("user", "v"), ("assistant", "y")];
        assert_eq!(spans(moving, &turns).unwrap(), [" x</s>", " y</s>"]);
    }

    #[test]
    fn no_mask_is_guessed() {
        let odd = "{% for m in messages | reverse %}{{ m.content | length }},{% endfor %}";
        assert_eq!(spans(odd, TURNS).unwrap_err().into_problem().code, "template_mask");
        let twice = "{% for m in messages %}{{ m.content + m.content }}{% endfor %}x";
        assert_eq!(spans(twice, &TURNS[..2]).unwrap_err().into_problem().code, "template_mask");
    }
}
