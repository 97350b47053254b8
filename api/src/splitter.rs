//! An answer's text as it comes, taken apart: content, thinking, and calls of tools. What may still become a mark is held
//! back until it is or isn't one; whatever turns out to be no call is content after all.

use crate::calls::{self, Braces, Call};

/// What a piece of text adds to an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Content(String),
    /// Between `<think>` and `</think>`.
    Thinking(String),
    /// A call begins: which of the answer's calls, from 0, and the name.
    Call(usize, String),
    /// More of the text of a call's arguments.
    Arguments(usize, String),
}

const THINK: [&str; 2] = ["<think>", "</think>"];
/// Hermes and Qwen.
const CALL: [&str; 2] = ["<tool_call>", "</tool_call>"];
/// Mistral, Llama: everything behind these is calls.
const CALLS: [&str; 2] = ["[TOOL_CALLS]", "<|python_tag|>"];

#[derive(Debug)]
pub struct Splitter {
    /// Whether calls are looked for.
    has_tools: bool,
    state: State,
    /// Something stands before: white space between it and what follows is part of neither.
    is_behind: bool,
    /// Not yet understood.
    held: String,
    calls: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing but white space so far.
    Start,
    Content,
    Thinking,
    /// Inside a call; what had begun it, if that was a mark, and what of it was told.
    Call {
        mark: Option<&'static str>,
        told: Option<Told>,
    },
}

/// The arguments of a call that are being told.
#[derive(Debug)]
struct Told {
    /// Up to here of the held text.
    upto: usize,
    braces: Braces,
    is_whole: bool,
}

impl Splitter {
    pub fn new(has_tools: bool) -> Self {
        Self { has_tools, state: State::Start, is_behind: false, held: String::new(), calls: 0 }
    }

    /// How many calls were told of.
    pub fn calls(&self) -> usize {
        self.calls
    }

    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// Nothing more comes.
    pub fn end(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Content) {
            State::Call { mark, told: None } => self.tell_whole(mark.unwrap_or_default(), &held, &mut pieces),
            State::Call { .. } => {}
            State::Thinking => say(&held, Piece::Thinking, &mut pieces),
            State::Start if self.is_behind => say(held.trim(), Piece::Content, &mut pieces),
            State::Start | State::Content => say(&held, Piece::Content, &mut pieces),
        }
        pieces
    }

    /// Goes on by one mark; false if more text is needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match &mut self.state {
            State::Start => self.start(),
            State::Content => self.content(pieces),
            State::Thinking => self.thinking(pieces),
            State::Call { .. } => self.call(pieces),
        }
    }

    fn start(&mut self) -> bool {
        let begun = self.held.trim_start();
        if begun.is_empty() {
            return false;
        }
        if let Some(rest) = begun.strip_prefix(THINK[0]) {
            (self.held, self.state) = (rest.trim_start_matches('\n').to_owned(), State::Thinking);
            return true;
        }
        if THINK[0].starts_with(begun) {
            return false;
        }
        if self.has_tools && calls::may_begin(begun) {
            let is_call = begun.contains(':');
            if is_call {
                self.state = State::Call { mark: None, told: None };
            }
            return is_call;
        }
        if self.is_behind {
            self.held = begun.to_owned();
        }
        self.state = State::Content;
        true
    }

    fn content(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let marks: &[&'static str] = if self.has_tools { &[CALL[0], CALLS[0], CALLS[1]] } else { &[] };
        let first = marks.iter().filter_map(|mark| self.held.find(mark).map(|at| (at, *mark))).min();
        let Some((at, mark)) = first else {
            let keep = marks.iter().map(|mark| overlap(&self.held, mark)).max().unwrap_or(0);
            let mut upto = self.held.len() - keep;
            if self.has_tools {
                // White space before a call is no part of the content.
                upto = self.held[..upto].trim_end().len();
            }
            let rest = self.held.split_off(upto);
            say(&std::mem::replace(&mut self.held, rest), Piece::Content, pieces);
            return false;
        };
        let rest = self.held.split_off(at + mark.len());
        self.held.truncate(at);
        let before = std::mem::replace(&mut self.held, rest);
        say(before.trim_end(), Piece::Content, pieces);
        self.state = State::Call { mark: Some(mark), told: None };
        true
    }

    fn thinking(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let (text, rest, is_over) = match self.held.split_once(THINK[1]) {
            Some((text, rest)) => (text.trim_end().to_owned(), rest.trim_start().to_owned(), true),
            None => {
                let keep = overlap(&self.held, THINK[1]);
                let (text, rest) = self.held.split_at(self.held.len() - keep);
                (text.to_owned(), rest.to_owned(), false)
            }
        };
        say(&text, Piece::Thinking, pieces);
        self.held = rest;
        if is_over {
            (self.state, self.is_behind) = (State::Start, true);
        }
        is_over
    }

    fn call(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let State::Call { mark, told } = &mut self.state else { return false };
        let closing = (*mark == Some(CALL[0])).then_some(CALL[1]);
        if told.is_none()
            && let Some((name, at)) = calls::head(&self.held)
        {
            pieces.push(Piece::Call(self.calls, name));
            self.calls += 1;
            *told = Some(Told { upto: at, braces: Braces::default(), is_whole: false });
        }
        if let Some(told) = told
            && !told.is_whole
        {
            let (length, is_whole) = told.braces.follow(&self.held[told.upto..]);
            let more = &self.held[told.upto..told.upto + length];
            if !more.is_empty() {
                pieces.push(Piece::Arguments(self.calls - 1, more.to_owned()));
            }
            (told.upto, told.is_whole) = (told.upto + length, is_whole);
        }
        let Some(closing) = closing else { return false };
        let from = told.as_ref().map_or(0, |told| told.upto);
        let is_whole = told.as_ref().is_none_or(|told| told.is_whole);
        let Some(at) = self.held[from..].find(closing).filter(|_| is_whole).map(|at| from + at) else { return false };
        let rest = self.held.split_off(at + closing.len()).trim_start().to_owned();
        self.held.truncate(at);
        let text = std::mem::replace(&mut self.held, rest);
        if told.is_none() {
            self.tell_whole(CALL[0], &text, pieces);
        }
        (self.state, self.is_behind) = (State::Start, true);
        true
    }

    /// Calls of a text that is whole; content if it holds none.
    fn tell_whole(&mut self, mark: &str, text: &str, pieces: &mut Vec<Piece>) {
        match calls::parse(text) {
            Some(calls) => {
                for Call { name, arguments } in calls {
                    pieces.extend([Piece::Call(self.calls, name), Piece::Arguments(self.calls, arguments)]);
                    self.calls += 1;
                }
            }
            None => say(&format!("{mark}{text}"), Piece::Content, pieces),
        }
    }
}

fn say(text: &str, piece: fn(String) -> Piece, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(piece(text.to_owned()));
    }
}

/// How many bytes at the end of `text` are the beginning of `mark`.
fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len() - 1);
    (1..=longest).rev().find(|n| text.is_char_boundary(text.len() - n) && text.ends_with(&mark[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer in one piece, and letter by letter: what it comes to is the same.
    fn split(text: &str, has_tools: bool) -> (String, String, Vec<Call>) {
        let made = |pieces: &[&str]| {
            let mut splitter = Splitter::new(has_tools);
            let mut all: Vec<Piece> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
            all.extend(splitter.end());
            let (mut content, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
            for piece in all {
                match piece {
                    Piece::Content(text) => content += &text,
                    Piece::Thinking(text) => thinking += &text,
                    Piece::Call(i, name) => {
                        assert_eq!(i, calls.len());
                        calls.push(Call { name, ..Call::default() });
                    }
                    Piece::Arguments(i, text) => calls[i].arguments += &text,
                }
            }
            (content, thinking, calls)
        };
        let whole = made(&[text]);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let by_letter = made(&letters.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((&whole.0, &whole.2), (&by_letter.0, &by_letter.2), "{text}");
        assert_eq!(whole.1.trim(), by_letter.1.trim());
        whole
    }

    fn call(name: &str, arguments: &str) -> Call {
        Call { name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn plain_text_is_content() {
        for text in ["Hello.", " a < b <", "<th", "{\"a\": 1}", "Use <tool_call> so", "{\"name\": \"x\"}", "日本<"] {
            assert_eq!(split(text, false), (text.into(), String::new(), vec![]));
        }
        for text in ["Hello [TOOL", "{\"a\": 1}", "<tool", "[1, 2]", "{\"name\"", "你好<|"] {
            assert_eq!(split(text, true), (text.into(), String::new(), vec![]));
        }
    }

    #[test]
    fn thinking_stands_before_the_answer() {
        let thought = ("Hi.".to_owned(), "Well.".to_owned(), vec![]);
        assert_eq!(split("<think>\nWell.</think>\n\nHi.", false), thought);
        assert_eq!(split("\n<think>\nWell.</think>Hi.", true), thought);
        assert_eq!(split("<think>never ends", false), (String::new(), "never ends".into(), vec![]));
    }

    #[test]
    fn calls_are_found_in_every_form() {
        let one = vec![call("f", "{\"a\": [1, \"}\"]}")];
        for text in [
            "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": [1, \"}\"]}}",
        ] {
            assert_eq!(split(text, true), (String::new(), String::new(), one.clone()), "{text}");
        }
        let two = vec![call("f", "{\"a\":1}"), call("g", "{}")];
        for text in [
            "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>",
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
            "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        ] {
            assert_eq!(split(text, true), (String::new(), String::new(), two.clone()), "{text}");
        }
        let said = split("Let me see.\n<tool_call>{\"name\": \"f\", \"arguments\": \"{}\"}</tool_call>", true);
        assert_eq!(said, ("Let me see.".into(), String::new(), vec![call("f", "{}")]));
    }

    #[test]
    fn what_is_no_call_after_all_is_content() {
        for text in ["[TOOL_CALLS]none", "{\"name\": \"Ada\", \"age\": 36}", "<tool_call>x</tool_call>"] {
            let (content, _, calls) = split(text, true);
            assert!(calls.is_empty(), "{text}");
            assert_eq!(content, text.replace("</tool_call>", ""));
        }
    }

    #[test]
    fn arguments_are_told_while_they_are_written() {
        let mut splitter = Splitter::new(true);
        assert_eq!(
            splitter.push("{\"name\": \"f\", \"arguments\": {\"a"),
            [Piece::Call(0, "f".into()), Piece::Arguments(0, "{\"a".into())]
        );
        assert_eq!(splitter.push("\": 1}}"), [Piece::Arguments(0, "\": 1}".into())]);
        assert!(splitter.end().is_empty());
        assert_eq!(splitter.calls(), 1);
    }
}
