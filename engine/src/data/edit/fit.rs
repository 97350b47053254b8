//! Rows that are longer than a run keeps, made to fit.

use crate::data::example::is_answer;
use crate::data::inspect::RowEncoder;
use crate::data::{Answer, Example, Kind, Row, info};
use api::data::Message;
use std::ops::Range;

/// The row with its last answer (or its text, or both answers of a pair) cut so that it fits with its end; `None` where it
/// fits already or can't.
pub fn truncate(row: &Row, entry: &info::Entry, encoder: &RowEncoder) -> Option<Vec<Row>> {
    let format = entry.format().ok()?;
    let example = format.example(row, entry).ok()?;
    let answers: &[Answer] = match example.chosen {
        Some(_) => &[Answer::Chosen, Answer::Rejected],
        None => &[Answer::Last],
    };
    let mut made = None;
    for answer in answers {
        let alone = one_answer(&example, *answer);
        let text = text_of(&alone)?;
        if fits(&alone, encoder) {
            continue;
        }
        let kept = longest(text, |text| fits(&with_text(&alone, text), encoder))?;
        made = format.with_answer(made.as_ref().unwrap_or(row), entry, *answer, kept);
        made.as_ref()?;
    }
    made.map(|row| vec![row])
}

/// The row as several that fit, cut between turns of its conversation, or between words of its text; `None` where it fits
/// already or has one turn only.
pub fn split(row: &Row, entry: &info::Entry, encoder: &RowEncoder) -> Option<Vec<Row>> {
    let format = entry.format().ok()?;
    let example = format.example(row, entry).ok()?;
    if fits(&example, encoder) {
        return None;
    }
    match format.kind(entry) {
        Kind::Text => {
            let text = example.text.as_deref()?;
            let parts = parts(text, |text| fits(&with_text(&example, text), encoder))?;
            parts.into_iter().map(|part| format.with_answer(row, entry, Answer::Last, part)).collect()
        }
        Kind::Instructions => {
            let turns = turns(&example, encoder);
            if turns.len() < 2 {
                return None;
            }
            turns.into_iter().map(|turns| format.with_turns(row, entry, turns)).collect()
        }
        // Their judgement is about the last answer of the whole.
        Kind::Preferences | Kind::Kto => None,
    }
}

fn fits(example: &Example, encoder: &RowEncoder) -> bool {
    encoder.encode(example).is_ok_and(|encoded| !encoded.is_cut())
}

/// The conversation with one answer of a pair at its end.
fn one_answer(example: &Example, answer: Answer) -> Example {
    let own = match answer {
        Answer::Last => return example.clone(),
        Answer::Chosen => &example.chosen,
        Answer::Rejected => &example.rejected,
    };
    let messages = example.messages.iter().chain(own).cloned().collect();
    Example { messages, chosen: None, rejected: None, ..example.clone() }
}

/// What can be cut: plain text, or the last answer, unless it calls tools.
fn text_of(example: &Example) -> Option<&str> {
    let last = example.messages.last().filter(|message| message.role == "assistant");
    example.text.as_deref().or(last.map(|message| message.content.as_str()))
}

fn with_text(example: &Example, text: &str) -> Example {
    let mut example = example.clone();
    match &mut example.text {
        Some(whole) => *whole = text.into(),
        None => {
            if let Some(last) = example.messages.last_mut() {
                last.content = text.into();
            }
        }
    }
    example
}

/// The longest beginning of a text that fits, without white space at its end.
fn longest(text: &str, fits: impl Fn(&str) -> bool) -> Option<&str> {
    let (mut low, mut high) = (0, text.len());
    while low < high {
        let middle = text.ceil_char_boundary(low + (high - low).div_ceil(2));
        // The last character.
        if middle >= high && text.floor_char_boundary(high - 1) <= low {
            if fits(&text[..high]) {
                low = high;
            }
            break;
        }
        let middle = if middle >= high { text.floor_char_boundary(high - 1) } else { middle };
        if fits(&text[..middle]) {
            low = middle
        } else {
            high = middle
        };
    }
    Some(text[..low].trim_end()).filter(|text| !text.is_empty() && fits(text))
}

/// A text in parts that fit, cut behind white space where there is some.
fn parts(text: &str, fits: impl Fn(&str) -> bool) -> Option<Vec<&str>> {
    let (mut rest, mut parts) = (text, Vec::new());
    while !fits(rest) {
        let most = longest(rest, &fits)?;
        let words = most.trim_end_matches(|c: char| !c.is_whitespace()).trim_end();
        let part = if words.is_empty() { most } else { words };
        parts.push(part);
        rest = rest[part.len()..].trim_start();
    }
    parts.push(rest);
    Some(parts)
}

/// Stretches of turns, each as long as fits; a turn that is too long by itself stands alone.
fn turns(example: &Example, encoder: &RowEncoder) -> Vec<Range<usize>> {
    let (system, messages) = match example.messages.split_first() {
        Some((first, rest)) if first.role == "system" => (Some(first), rest),
        _ => (None, example.messages.as_slice()),
    };
    let begins = |message: &&Message| !is_answer(message) && message.role == "user";
    let starts: Vec<usize> = messages.iter().enumerate().filter(|(_, m)| begins(m)).map(|(i, _)| i).collect();
    let count = starts.len();
    let place = |turn: usize| starts.get(turn).copied().unwrap_or(messages.len());
    let of = |turns: Range<usize>| {
        let some = messages.get(place(turns.start)..place(turns.end)).unwrap_or_default();
        Example { messages: system.into_iter().chain(some).cloned().collect(), ..example.clone() }
    };
    let (mut all, mut start) = (Vec::new(), 0);
    while start < count {
        let mut end = start + 1;
        while end < count && fits(&of(start..end + 1), encoder) {
            end += 1;
        }
        all.push(start..end);
        start = end;
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_is_found_whatever_its_characters() {
        let text = "ab 你好 cd é";
        for most in 0..=text.len() {
            let found = longest(text, |part| part.len() <= most);
            let wanted = text[..text.floor_char_boundary(most)].trim_end();
            assert_eq!(found.unwrap_or_default(), wanted, "{most}");
        }
    }

    #[test]
    fn parts_lose_no_word() {
        let text = "one two three four fivesixseven eight";
        let parts = parts(text, |part| part.len() <= 9).unwrap();
        assert_eq!(parts, ["one two", "three", "four", "fivesixse", "ven eight"]);
        assert_eq!(super::parts(text, |_| false), None);
    }
}
