//! The text of an answer as its tokens come: handed out when it is certain, up to the texts that end it.

use crate::{Error, Result};
use tokenizers::Tokenizer;

/// The text of one answer.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// Where the tokens that were last decoded begin, and up to where they were handed out.
    window: (usize, usize),
    /// Certain text that may be the beginning of a stop text.
    held: String,
    /// A stop text was reached.
    pub stopped: bool,
}

impl Text {
    /// New text since the last call, if the last token doesn't end in the middle of a character. Decodes a short window,
    /// since how a token reads can depend on the one before it.
    pub fn push(&mut self, tokenizer: &Tokenizer, ids: &[u32], stop: &[String]) -> Result<String> {
        let (start, read) = self.window;
        let before = decode(tokenizer, &ids[start..read])?;
        let now = decode(tokenizer, &ids[start..])?;
        match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{FFFD}') => {
                self.window = (read, ids.len());
                Ok(self.until(new, stop))
            }
            _ => Ok(String::new()),
        }
    }

    /// What is left at the end, even if a character stayed incomplete.
    pub fn rest(&mut self, tokenizer: &Tokenizer, ids: &[u32], stop: &[String]) -> Result<String> {
        let (start, read) = self.window;
        let before = decode(tokenizer, &ids[start..read])?;
        let now = decode(tokenizer, &ids[start..])?;
        self.window = (ids.len(), ids.len());
        let mut text = self.until(now.strip_prefix(&before).unwrap_or_default(), stop);
        text.push_str(&std::mem::take(&mut self.held));
        Ok(text)
    }

    /// What can be handed out once `new` is there too.
    fn until(&mut self, new: &str, stop: &[String]) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(new);
        if let Some(end) = stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            let text = self.held[..end].to_owned();
            self.held.clear();
            return text;
        }
        let begins = |at: &usize| stop.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let certain = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Tokens as text, special ones left out.
pub fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    tokenizer.decode(ids, true).map_err(|e| Error::Internal(format!("tokens could not be decoded: {e}")))
}

/// The bytes that a token stands for, which may be a part of a character. A special token stands for its name.
pub fn bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(piece) = tokenizer.id_to_token(id) else { return Vec::new() };
    if tokenizer.get_added_tokens_decoder().contains_key(&id) {
        return piece.into_bytes();
    }
    if let Some(byte) = piece.strip_prefix("<0x").and_then(|hex| u8::from_str_radix(hex.strip_suffix('>')?, 16).ok()) {
        return vec![byte];
    }
    // A vocabulary of bytes has a character for each, GPT-2's.
    let of_bytes =
        tokenizer.get_decoder().is_some_and(|decoder| matches!(decoder, tokenizers::DecoderWrapper::ByteLevel(_)));
    match piece.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
        Some(bytes) if of_bytes => bytes,
        _ => piece.replace('\u{2581}', " ").into_bytes(),
    }
}

/// The byte that a character of GPT-2's table stands for: printable ones for themselves, others from U+0100 on.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| printable(*byte)),
        code => (0..=255u8).filter(|byte| !printable(*byte)).nth(code.checked_sub(0x100)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_texts_end_an_answer_and_are_no_part_of_it() {
        let stop = ["END".to_string(), "\n\n".into()];
        let said = |pieces: &[&str]| {
            let mut text = Text::default();
            let said: Vec<String> = pieces.iter().map(|piece| text.until(piece, &stop)).collect();
            (said, text.stopped, text.held)
        };
        let owned = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!(said(&["a E", "N", "D b"]), (owned(&["a ", "", ""]), true, String::new()));
        assert_eq!(said(&["a E", "xN\n", "b"]), (owned(&["a ", "ExN", "\nb"]), false, String::new()));
        assert_eq!(said(&["é\n", "\nEND"]), (owned(&["é", ""]), true, String::new()));
        assert_eq!(said(&["x EN"]), (owned(&["x "]), false, "EN".into()));
    }

    #[test]
    fn every_byte_has_a_character() {
        let all: Vec<u8> = (0..=0x143).filter_map(char::from_u32).filter_map(byte_of).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
    }
}
