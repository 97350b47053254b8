//! JSON: one array of rows, or rows one after the other. A file is cut into rows by its brackets first and each row parsed
//! by itself, so that a row that isn't JSON hides no other.

use super::{Give, Input, MAX_ROW, Raw, not_json, row_not_json, row_too_long};
use crate::Result;
use serde_json::Value;

/// Whether the text begins an array. Only looks.
pub fn is_array(input: &mut Input) -> Result<bool> {
    Ok(input.fill()?.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'['))
}

/// Gives every row.
pub fn read(input: Input, give: &mut Give) -> Result<()> {
    let mut rows = Splitter::new(input);
    let mut bytes = Vec::new();
    while let Some(row) = rows.next(&mut bytes)? {
        let raw = match row.length > MAX_ROW {
            true => Raw { text: None, value: Err(row_too_long(row.at.line)) },
            false => {
                let value = serde_json::from_slice::<Value>(&bytes).map_err(|e| {
                    let at = row.at.plus(e.line(), e.column());
                    row_not_json(at.line, at.column, &e.to_string())
                });
                Raw { text: Some(&bytes), value }
            }
        };
        if !give(raw)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Rows of a file.
pub fn count(input: Input) -> Result<u64> {
    let (mut splitter, mut bytes, mut rows) = (Splitter::new(input), Vec::new(), 0);
    while splitter.next(&mut bytes)?.is_some() {
        rows += 1;
    }
    Ok(rows)
}

/// A place in a file, from 1; the column counts bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// A place of the text that begins here.
    fn plus(self, line: usize, column: usize) -> Self {
        let column = if line <= 1 { self.column + column.saturating_sub(1) } else { column.max(1) };
        Self { line: self.line + line.saturating_sub(1), column }
    }

    /// The place behind these bytes.
    fn past(self, bytes: &[u8]) -> Self {
        match memchr::memrchr(b'\n', bytes) {
            Some(last) => {
                let lines = memchr::memchr_iter(b'\n', bytes).count();
                Self { line: self.line + lines, column: bytes.len() - last }
            }
            None => Self { column: self.column + bytes.len(), ..self },
        }
    }
}

/// One row as the splitter finds it.
struct Found {
    at: Place,
    /// Bytes. More than [`MAX_ROW`] of them are not kept.
    length: usize,
}

/// Cuts a text into rows.
struct Splitter {
    input: Input,
    at: Place,
    /// Whether the rows stand in an array; unknown before the first.
    array: Option<bool>,
    first: bool,
}

/// Where the splitter is within a row.
#[derive(Clone, Copy)]
enum Inside {
    /// This deep in brackets.
    Brackets(usize),
    /// A text, this deep; at its end the row may end, too.
    Text(usize),
    /// Behind a backslash in a text.
    Escape(usize),
    /// A number or a word, which ends with what can't belong to it.
    Word,
}

impl Splitter {
    fn new(input: Input) -> Self {
        Self { input, at: Place { line: 1, column: 1 }, array: None, first: true }
    }

    /// The next row, its bytes in `bytes`.
    fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Option<Found>> {
        let Some(start) = self.start()? else { return Ok(None) };
        let at = self.at;
        bytes.clear();
        // A row of many megabytes is seldom followed by another.
        bytes.shrink_to(1 << 20);
        let (mut inside, mut length) = (
            match start {
                b'"' => Inside::Text(0),
                b'{' | b'[' => Inside::Brackets(1),
                _ => Inside::Word,
            },
            0,
        );
        // The first byte is known to be no end.
        let mut from = 1;
        loop {
            let buffer = self.input.fill()?;
            if buffer.is_empty() {
                return self.unfinished(inside, at, length, bytes);
            }
            let end = scan(buffer, from, &mut inside);
            let part = &buffer[..end.unwrap_or(buffer.len())];
            (from, length) = (0, length + part.len());
            self.at = self.at.past(part);
            if length <= MAX_ROW {
                bytes.extend_from_slice(part);
            }
            let taken = part.len();
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(Found { at, length }));
            }
        }
    }

    /// Goes to the first byte of the next row; `None` where there is none.
    fn start(&mut self) -> Result<Option<u8>> {
        let mut next = self.skip_blanks()?;
        if self.array.is_none() {
            self.array = Some(next == Some(b'['));
            if next == Some(b'[') {
                self.step();
                next = self.skip_blanks()?;
            }
        }
        let first = std::mem::replace(&mut self.first, false);
        match (self.array, next) {
            (Some(true), Some(b']')) => {
                self.step();
                match self.skip_blanks()? {
                    None => Ok(None),
                    Some(_) => Err(self.wrong("trailing characters")),
                }
            }
            (Some(true), None) => Err(self.wrong("EOF while parsing a list")),
            (Some(true), Some(b',')) if !first => {
                self.step();
                match self.skip_blanks()? {
                    None => Err(self.wrong("EOF while parsing a list")),
                    Some(b']' | b',' | b'}' | b':') => Err(self.wrong("expected value")),
                    next => Ok(next),
                }
            }
            (Some(true), Some(_)) if !first => Err(self.wrong("expected `,` or `]`")),
            (_, Some(b']' | b',' | b'}' | b':')) => Err(self.wrong("expected value")),
            // Only rows with columns stand one after the other; anything else is no JSON of ours.
            (Some(false), Some(other)) if !matches!(other, b'{' | b'[' | b'"') => Err(self.wrong("expected value")),
            (_, next) => Ok(next),
        }
    }

    /// The next byte that isn't white space, which stays where it is.
    fn skip_blanks(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = self.input.fill()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blanks = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let next = buffer.get(blanks).copied();
            self.at = self.at.past(&buffer[..blanks]);
            self.input.consume(blanks);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Over one byte that is no line feed.
    fn step(&mut self) {
        self.input.consume(1);
        self.at.column += 1;
    }

    fn wrong(&self, detail: &str) -> crate::Error {
        not_json(self.input.path(), self.at.line, self.at.column, detail).into()
    }

    /// At the end of the file in a row: a word may end so, everything else is a fault, told where a parser first sees it.
    fn unfinished(&self, inside: Inside, at: Place, length: usize, bytes: &[u8]) -> Result<Option<Found>> {
        if matches!(inside, Inside::Word) && self.array == Some(false) {
            return Ok(Some(Found { at, length }));
        }
        match serde_json::from_slice::<Value>(bytes) {
            Err(e) if length <= MAX_ROW => {
                let place = at.plus(e.line(), e.column());
                Err(not_json(self.input.path(), place.line, place.column, &e.to_string()).into())
            }
            _ => Err(self.wrong("the file ends within a row")),
        }
    }
}

/// Goes on through a row from byte `from`; where it ends, if it does.
fn scan(buffer: &[u8], from: usize, inside: &mut Inside) -> Option<usize> {
    let mut i = from;
    while i < buffer.len() {
        match *inside {
            Inside::Text(depth) => match memchr::memchr2(b'"', b'\\', &buffer[i..]) {
                None => return None,
                Some(n) if buffer[i + n] == b'\\' => {
                    *inside = Inside::Escape(depth);
                    i += n + 1;
                }
                Some(n) => {
                    *inside = Inside::Brackets(depth);
                    i += n + 1;
                    if depth == 0 {
                        return Some(i);
                    }
                }
            },
            Inside::Escape(depth) => {
                *inside = Inside::Text(depth);
                i += 1;
            }
            Inside::Brackets(depth) => {
                match buffer[i] {
                    b'"' => *inside = Inside::Text(depth),
                    b'{' | b'[' => *inside = Inside::Brackets(depth + 1),
                    b'}' | b']' => *inside = Inside::Brackets(depth - 1),
                    _ => {}
                }
                i += 1;
                if matches!(inside, Inside::Brackets(0)) {
                    return Some(i);
                }
            }
            Inside::Word => {
                if matches!(buffer[i], b',' | b']' | b'}' | b'[' | b'{' | b'"') || buffer[i].is_ascii_whitespace() {
                    return Some(i);
                }
                i += 1;
            }
        }
    }
    None
}
