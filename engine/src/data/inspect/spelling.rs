//! What single tokens add to a text.

use std::collections::HashMap;
use tokenizers::Tokenizer;

/// A tokenizer's tokens as text.
pub struct Spelling<'a> {
    tokenizer: &'a Tokenizer,
    /// Of byte-level vocabularies: the byte that each character stands for.
    bytes: Option<HashMap<char, u8>>,
    /// Tokens beside the vocabulary: their text, and whether they are special.
    added: HashMap<u32, (String, bool)>,
}

impl<'a> Spelling<'a> {
    pub fn of(tokenizer: &'a Tokenizer) -> Self {
        let parts = [
            serde_json::to_string(&tokenizer.get_decoder()).unwrap_or_default(),
            serde_json::to_string(&tokenizer.get_pre_tokenizer()).unwrap_or_default(),
        ];
        let is_byte_level = parts.iter().any(|part| part.contains("\"ByteLevel\""));
        let added = tokenizer.get_added_tokens_decoder();
        let added = added.into_iter().map(|(id, token)| (id, (token.content, token.special))).collect();
        Self { tokenizer, bytes: is_byte_level.then(byte_level), added }
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|(_, special)| *special)
    }

    /// The token's own text; bytes that are no character by themselves as `\xE4`.
    pub fn text(&self, id: u32) -> String {
        if let Some((text, _)) = self.added.get(&id) {
            return text.clone();
        }
        let Some(piece) = self.tokenizer.id_to_token(id) else { return String::new() };
        let bytes = match &self.bytes {
            Some(known) => {
                let mut bytes = Vec::with_capacity(piece.len());
                for c in piece.chars() {
                    match known.get(&c) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                bytes
            }
            None => match single_byte(&piece) {
                Some(byte) => vec![byte],
                // SentencePiece's space.
                None => piece.replace('\u{2581}', " ").into_bytes(),
            },
        };
        let mut text = String::new();
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02X}")));
        }
        text
    }
}

/// `<0xE4>`, as vocabularies with a fallback to bytes write one.
fn single_byte(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// GPT-2's table: bytes that are visible in Latin-1 stand for themselves, the others for the characters from 256 on.
fn byte_level() -> HashMap<char, u8> {
    let is_visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let visible = (0..=u8::MAX).filter(is_visible).map(|byte| (char::from(byte), byte));
    let others = (0..=u8::MAX).filter(|byte| !is_visible(byte)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
    visible.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn the_table_has_a_character_for_each_byte() {
        let table = byte_level();
        assert_eq!(table.len(), 256);
        assert!(ByteLevel::alphabet().iter().all(|c| table.contains_key(c)));
        assert_eq!((table[&'Ġ'], table[&'Ċ'], table[&'a']), (b' ', b'\n', b'a'));
    }

    #[test]
    fn bytes_of_a_fallback_are_read() {
        assert_eq!(single_byte("<0xE4>"), Some(0xE4));
        assert_eq!(["<0x4>", "<0xE44>", "0xE4", "<0xG4>"].map(single_byte), [None; 4]);
    }
}
