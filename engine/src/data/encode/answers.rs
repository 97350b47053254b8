//! Where the answers stand in a rendered conversation.
//!
//! Some templates mark their answers with `{% generation %}`: then these are the answers. The others don't say which part
//! of their text an answer is, so it is found by rendering. The conversation is rendered once more with marks around the
//! content of every message, characters that no text holds, which gives the places of the contents; the messages before an
//! answer with the generation prompt give its beginning, the messages up to it what ends it. The rules:
//!
//! 1. An answer begins where the generation prompt for it ends (so thoughts that stand between are trained, but not those
//!    that the prompt says already). Where the template writes history in another way than a prompt, it begins behind the
//!    header that both have, or with its content.
//! 2. It ends with what the template puts after its content both when it is the last message and when a question follows,
//!    without white space at the end: in ChatML `<|im_end|>` is trained, the line feed after it isn't, nor is an end of
//!    text or the beginning of an answer that some templates put after everything.
//! 3. Rendered with and without marks, the text must be the same, and an answer that has no place must be told by its
//!    prompt and its end. Otherwise the row is a problem: no mask is guessed.

use crate::Result;
use crate::data::{ChatTemplate, template::GENERATION};
use api::Problem;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// A conversation as text, and the spans of its answers in bytes, in order.
#[derive(Debug)]
pub struct Answers {
    pub text: String,
    pub spans: Vec<Range<usize>>,
    /// Spans of the last answer.
    last: usize,
}

impl Answers {
    /// `messages` as transformers takes them.
    pub fn find(
        template: &ChatTemplate,
        messages: &[Value],
        tools: Option<&Value>,
        extra: &Map<String, Value>,
    ) -> Result<Self> {
        let (messages, text) = template.render_fitting(messages, tools, false, extra)?;
        let conversation = Conversation { template, messages: &messages, tools, extra };
        if template.marks_answers() {
            return conversation.generations(text);
        }
        let placed = conversation.placed(&text);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| is_answer(m)) {
            let span = match placed.places.get(i).cloned().flatten() {
                Some(place) => {
                    conversation.start(i, &text, &placed).map_or_else(
                        // A space before the first word may be part of its token.
                        || text[..place.start].trim_end_matches(' ').len(),
                        |start| start.min(place.start),
                    )..conversation.end(i, place.end, &text, placed.marks)
                }
                None => {
                    let start = conversation.start(i, &text, &placed);
                    let end = common(&conversation.render(&messages[..=i], false)?, &text, template.eos());
                    let (Some(start), Some(end)) = (start, end) else { return Err(unclear(i, message).into()) };
                    start..end.max(start)
                }
            };
            let said = text_of(message).is_some_and(|content| !content.trim().is_empty());
            if span.start > span.end || spans.last().is_some_and(|l| span.start < l.end) || (said && span.is_empty()) {
                return Err(unclear(i, message).into());
            }
            spans.push(span);
        }
        Ok(Self { text, spans, last: 1 })
    }

    /// The spans of the last answer.
    pub fn last(&self) -> &[Range<usize>] {
        &self.spans[self.spans.len().saturating_sub(self.last)..]
    }
}

struct Conversation<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Value],
    tools: Option<&'a Value>,
    extra: &'a Map<String, Value>,
}

/// A text and the places of the messages' contents in it, as far as they are known.
struct Placed {
    text: String,
    places: Vec<Option<Range<usize>>>,
    marks: Marks,
}

/// What is marked. Templates look at contents too, so that marks may change what they make of it: then fewer are set.
#[derive(Clone, Copy, PartialEq)]
enum Marks {
    All,
    Answers,
    /// Answers that aren't empty.
    Said,
    None,
}

impl Conversation<'_> {
    fn render(&self, messages: &[Value], prompt: bool) -> Result<String> {
        self.template.render_values(messages, self.tools, prompt, self.extra)
    }

    /// The answers of a template that marks them itself.
    fn generations(&self, text: String) -> Result<Answers> {
        let mut free = (FIRST..=LAST).filter_map(char::from_u32).filter(|c| !text.contains(*c));
        let (Some(open), Some(close)) = (free.next(), free.next()) else { return Err(unmarked().into()) };
        let mut extra = self.extra.clone();
        GENERATION.into_iter().zip([open, close]).for_each(|(name, mark)| {
            extra.insert(name.into(), mark.to_string().into());
        });
        let spans_of = |messages: &[Value]| -> Result<(String, Vec<Range<usize>>)> {
            let marked = self.template.render_values(messages, self.tools, false, &extra)?;
            let (mut plain, mut spans, mut begun) = (String::with_capacity(marked.len()), Vec::new(), None);
            for c in marked.chars() {
                if c == open {
                    begun = Some(plain.len());
                } else if c == close {
                    spans.extend(begun.take().map(|start| start..plain.len()));
                } else {
                    plain.push(c);
                }
            }
            Ok((plain, spans))
        };
        let (plain, spans) = spans_of(self.messages)?;
        if plain != text || spans.iter().all(Range::is_empty) {
            return Err(unmarked().into());
        }
        let end = self.messages.iter().rposition(is_answer).unwrap_or(0);
        let before = spans_of(&self.messages[..end]).map_or(0, |(_, spans)| spans.len());
        Ok(Answers { text, last: spans.len().saturating_sub(before), spans })
    }

    /// The places of all contents in `text`, with as many marks as leave it as it is.
    fn placed(&self, text: &str) -> Placed {
        let free = !text.contains(is_mark);
        let tried = [Marks::All, Marks::Answers, Marks::Said].into_iter().filter(|_| free);
        tried
            .filter_map(|marks| self.marked(self.messages, false, marks))
            .find(|placed| placed.text == text)
            .unwrap_or(Placed { text: text.to_string(), places: vec![None; self.messages.len()], marks: Marks::None })
    }

    /// What the template makes of marked messages, without the marks. A content that doesn't stand there exactly once has
    /// no place.
    fn marked(&self, messages: &[Value], prompt: bool, marks: Marks) -> Option<Placed> {
        let with_marks: Vec<Value> = messages.iter().enumerate().map(|(i, m)| between_marks(i, m, marks)).collect();
        let marked = self.render(&with_marks, prompt).ok()?;
        let mut seen: Vec<[Vec<usize>; 2]> = vec![Default::default(); messages.len()];
        let mut text = String::with_capacity(marked.len());
        for c in marked.chars() {
            if marks != Marks::None && is_mark(c) {
                let place = c as u32 - FIRST;
                if let Some(seen) = seen.get_mut(place as usize / 2) {
                    seen[place as usize % 2].push(text.len());
                }
            } else {
                text.push(c);
            }
        }
        let place = |[open, close]: &[Vec<usize>; 2]| match (open.as_slice(), close.as_slice()) {
            ([open], [close]) if open <= close => Some(*open..*close),
            _ => None,
        };
        Some(Placed { text, places: seen.iter().map(place).collect(), marks })
    }

    /// Where answer `i` begins in `text`, if its prompt tells.
    fn start(&self, i: usize, text: &str, placed: &Placed) -> Option<usize> {
        let asked = self.marked(&self.messages[..i], true, placed.marks)?;
        // What follows the question in the prompt, and in the text.
        let behind = |placed: &Placed| placed.places.get(i.checked_sub(1)?)?.as_ref().map(|question| question.end);
        let (Some(question), Some(begin)) = (behind(&asked), behind(placed)) else {
            return text.starts_with(&asked.text).then_some(asked.text.len());
        };
        let (prompt, said) = (&asked.text[question..], &text[begin..]);
        if said.starts_with(prompt) {
            return Some(begin + prompt.len());
        }
        // The question ends in another way here, or the prompt goes on with the beginning of thoughts: the header of the
        // answer is what the prompt adds to the question, or the first tokens of that.
        let plain = self.marked(&self.messages[..i], false, placed.marks)?;
        let header = &prompt[departure(&plain.text[behind(&plain)?..], prompt)..];
        let place = placed.places.get(i).cloned().flatten();
        let window = &text[begin..place.as_ref().map_or(text.len(), |place| place.start.max(begin))];
        let ends = std::iter::once(header.len()).chain(header.rmatch_indices(['<', '[']).map(|(at, _)| at));
        let found = ends.filter(|end| *end > 0).find_map(|end| Some(window.find(&header[..end])? + end));
        let calls = self.messages.get(i).is_some_and(|message| message.get("tool_calls").is_some());
        found.or_else(|| calls.then(|| departure(prompt, said))).map(|length| begin + length)
    }

    /// Where answer `i`, whose content ends at `content`, ends in `text`.
    fn end(&self, i: usize, content: usize, text: &str, marks: Marks) -> usize {
        let rest = &text[content..];
        let upto = &self.messages[..=i];
        // What follows the content where it is the last message, and where it isn't.
        let after = |messages: &[Value]| {
            let placed = self.marked(messages, false, marks)?;
            let place = placed.places.get(i).cloned().flatten()?;
            Some(placed.text[place.end..].to_string())
        };
        let eos = self.template.eos();
        // Most templates end an answer with one token; more may be an end of the whole text.
        let more = |rest: &str| {
            let last = eos.and_then(|eos| rest.strip_suffix(eos));
            rest.contains(char::is_whitespace) || last.is_some_and(|before| !before.is_empty())
        };
        let ending = if upto.len() < self.messages.len() {
            after(upto).map_or(0, |last| ending(&last, rest, eos))
        } else if more(rest.trim()) {
            let question = json!({ "role": "user", "content": "?" });
            let asked: Vec<Value> = upto.iter().cloned().chain([question]).collect();
            after(&asked).map_or(rest.trim_end().len(), |next| ending(rest, &next, eos))
        } else {
            rest.trim_end().len()
        };
        content + ending
    }
}

/// Characters of a plane for private use: no text that a model reads has them. Two for each message.
const FIRST: u32 = 0xF_0000;
const LAST: u32 = 0xF_FFFD;

fn is_mark(c: char) -> bool {
    (FIRST..=LAST).contains(&(c as u32))
}

/// A message with marks around the visible part of its content: what stands after its thoughts, without white space around;
/// or, where it calls tools, around the names that it calls.
fn between_marks(index: usize, message: &Value, marks: Marks) -> Value {
    let place = FIRST.saturating_add(2 * index as u32);
    let (Some(open), Some(close)) = (char::from_u32(place), char::from_u32(place + 1).filter(|_| place < LAST)) else {
        return message.clone();
    };
    let mut marked = message.clone();
    let wanted = match marks {
        Marks::All => true,
        Marks::Answers | Marks::Said => is_answer(message),
        Marks::None => false,
    };
    if let Some(calls) = marked.get_mut("tool_calls").and_then(Value::as_array_mut).filter(|calls| !calls.is_empty()) {
        let last = calls.len() - 1;
        for (n, name) in calls.iter_mut().filter_map(|call| call.get_mut("function")?.get_mut("name")).enumerate() {
            let text = name.as_str().unwrap_or_default();
            let open = (wanted && n == 0).then_some(open);
            let close = (wanted && n == last).then_some(close);
            *name = open.into_iter().chain(text.chars()).chain(close).collect::<String>().into();
        }
        return marked;
    }
    let Some(content) = text_of(message).filter(|_| wanted) else { return marked };
    let visible = content.rfind("</think>").filter(|_| is_answer(message)).map_or(0, |at| at + "</think>".len());
    let start = visible + content[visible..].len() - content[visible..].trim_start().len();
    let end = content.trim_end().len().max(start);
    if start < end || marks != Marks::Said {
        let (before, core, after) = (&content[..start], &content[start..end], &content[end..]);
        marked["content"] = format!("{before}{open}{core}{close}{after}").into();
    }
    marked
}

fn is_answer(message: &Value) -> bool {
    message["role"] == "assistant"
}

fn text_of(message: &Value) -> Option<&str> {
    message["content"].as_str()
}

/// Length of what both texts begin with, in whole tokens of the form `<…>` or `[…]`.
fn departure(prompt: &str, said: &str) -> usize {
    let same =
        prompt.char_indices().zip(said.chars()).find(|((_, a), b)| a != b).map_or(prompt.len(), |((at, _), _)| at);
    let same = &prompt[..same.min(said.len())];
    if same.len() == prompt.len() {
        return same.len();
    }
    let begun = same.rfind(['<', '[']).filter(|open| !same[*open..].contains(['>', ']']));
    begun.unwrap_or(same.len())
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

fn unclear(index: usize, message: &Value) -> Problem {
    let shown: String = text_of(message).unwrap_or_default().chars().take(30).collect();
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

/// The problem of a template that makes another text when it is asked for its marks.
fn unmarked() -> Problem {
    Problem::new(
        "template_mask",
        "the chat template marks its answers with {% generation %}, but they can't be found in its text.",
        "对话模板用 {% generation %} 标记了回答，但无法在其文本中找到。",
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
        let messages: Vec<Value> =
            turns.iter().map(|(role, content)| json!({ "role": role, "content": content })).collect();
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
    fn templates_that_mark_their_answers_are_believed() {
        let marked = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>\n\
                      {% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(spans(marked, TURNS).unwrap(), ["u<end>\n", " <think>t</think>\n\na <end>\n"]);
        let never = "{% for m in messages %}{{ m.content }}{% if m.nobody %}{% generation %}x{% endgeneration %}{% endif %}{% endfor %}";
        assert_eq!(spans(never, TURNS).unwrap_err().into_problem().code, "template_mask");
    }

    #[test]
    fn no_mask_is_guessed() {
        let odd = "{% for m in messages | reverse %}{{ m.content | length }},{% endfor %}";
        assert_eq!(spans(odd, TURNS).unwrap_err().into_problem().code, "template_mask");
        let twice = "{% for m in messages %}{{ m.content + m.content }}{% endfor %}x";
        assert_eq!(spans(twice, &TURNS[..2]).unwrap_err().into_problem().code, "template_mask");
    }
}
