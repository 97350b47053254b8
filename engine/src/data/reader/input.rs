//! The text of a file as UTF-8: unzipped, converted from other encodings, with limits for what a hostile file may cost.

use super::shown;
use crate::{Error, Result};
use api::Problem;
use encoding_rs::{Decoder, DecoderResult, Encoding, GB18030, UTF_8, UTF_16BE, UTF_16LE};
use flate2::read::MultiGzDecoder;
use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Bytes that are read at a time, and looked at to recognise the encoding.
const BUFFER: usize = 1 << 18;
/// A gzipped file may grow to this many times its size once it is longer than [`FREE`]; text becomes 3 to 20 times longer.
const MOST: u64 = 400;
const FREE: u64 = 64 << 20;

/// A file's text. Reading it fails with errors that [`problem`] turns into sentences.
pub struct Input {
    path: PathBuf,
    reader: BufReader<Box<dyn Read>>,
}

impl Input {
    pub fn open(path: &Path, zipped: bool) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let mut raw: Box<dyn Read> = match zipped {
            true => Box::new(Unzipped {
                reader: MultiGzDecoder::new(BufReader::new(file)),
                left: FREE.max(size.saturating_mul(MOST)),
            }),
            false => Box::new(file),
        };
        let mut start = Vec::with_capacity(BUFFER);
        raw.by_ref().take(BUFFER as u64).read_to_end(&mut start).map_err(|e| problem(path, e))?;
        let (encoding, mark) = recognise(&start).ok_or_else(|| not_text(path, "UTF-8, UTF-16 or GBK"))?;
        start.drain(..mark);
        let whole = io::Cursor::new(start).chain(raw);
        let text: Box<dyn Read> = match encoding == UTF_8 {
            true => Box::new(whole),
            false => Box::new(Converted::new(whole, encoding)),
        };
        Ok(Self { reader: BufReader::with_capacity(BUFFER, text), path: path.into() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is buffered, at least a byte before the end of the file.
    pub fn fill(&mut self) -> Result<&[u8]> {
        self.reader.fill_buf().map_err(|e| problem(&self.path, e))
    }

    pub fn consume(&mut self, n: usize) {
        self.reader.consume(n);
    }
}

/// What an error of reading the file means.
pub fn problem(path: &Path, error: io::Error) -> Error {
    let shown = shown(path);
    match error.get_ref().and_then(|e| e.downcast_ref::<Fault>()) {
        Some(Fault::Expands) => Problem::new(
            "dataset_expands",
            format!("{shown} grows to more than {MOST} times its size when it is unzipped, as no text does."),
            format!("{shown} 解压后超过原大小的 {MOST} 倍，不像正常文本。"),
        )
        .hint("Unzip it yourself and look at it.", "请自行解压并检查其内容。")
        .into(),
        Some(Fault::Malformed(encoding)) => not_text(path, encoding),
        None if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof) => Problem::new(
            "dataset_not_gzip",
            format!("{shown} is no whole gzip file: {error}."),
            format!("{shown} 不是完整的 gzip 文件：{error}。"),
        )
        .hint("Get or make it again.", "请重新获取或生成该文件。")
        .into(),
        None => Error::io(path)(error),
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

fn not_text(path: &Path, encoding: &str) -> Error {
    let shown = shown(path);
    Problem::new(
        "dataset_not_text",
        format!("{shown} is not text in {encoding}."),
        format!("{shown} 不是 {encoding} 编码的文本。"),
    )
    .hint("Save it again with the encoding UTF-8.", "请以 UTF-8 编码重新保存。")
    .into()
}

/// The encoding of a text by its first bytes, and how many of them only say so.
fn recognise(start: &[u8]) -> Option<(&'static Encoding, usize)> {
    if let Some((encoding, mark)) = Encoding::for_bom(start) {
        return Some((encoding, mark));
    }
    // Without a mark: a text that begins with two characters of ASCII.
    match start {
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => return Some((UTF_16LE, 0)),
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => return Some((UTF_16BE, 0)),
        _ => {}
    }
    let cut = start.len() == BUFFER;
    match std::str::from_utf8(start) {
        Ok(_) => return Some((UTF_8, 0)),
        Err(error) if error.error_len().is_none() && cut => return Some((UTF_8, 0)),
        Err(_) => {}
    }
    let mut decoder = GB18030.new_decoder_without_bom_handling();
    let mut text = vec![0; decoder.max_utf8_buffer_length_without_replacement(start.len())?];
    let (result, ..) = decoder.decode_to_utf8_without_replacement(start, &mut text, !cut);
    // Bytes that are no text in any of them may be UTF-8 with a fault in one row.
    let mostly_utf8 = String::from_utf8_lossy(start).matches('\u{FFFD}').count() * 4 < start.len();
    match result {
        DecoderResult::InputEmpty => Some((GB18030, 0)),
        _ => mostly_utf8.then_some((UTF_8, 0)),
    }
}

#[derive(Debug)]
enum Fault {
    Expands,
    Malformed(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

/// Unzipped bytes, up to a limit.
struct Unzipped<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Unzipped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(Fault::Expands))?;
        Ok(n)
    }
}

/// Text of another encoding as UTF-8.
struct Converted<R> {
    reader: R,
    decoder: Decoder,
    raw: Vec<u8>,
    /// What of `raw` is not converted yet.
    rest: std::ops::Range<usize>,
    ended: bool,
    /// The decoder has been told that nothing follows, and has nothing left.
    finished: bool,
}

impl<R: Read> Converted<R> {
    fn new(reader: R, encoding: &'static Encoding) -> Self {
        let decoder = encoding.new_decoder_without_bom_handling();
        Self { reader, decoder, raw: vec![0; BUFFER], rest: 0..0, ended: false, finished: false }
    }
}

impl<R: Read> Read for Converted<R> {
    /// `buffer` has room for a character.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.finished {
            if self.rest.is_empty() && !self.ended {
                let n = self.reader.read(&mut self.raw)?;
                (self.rest, self.ended) = (0..n, n == 0);
            }
            let raw = &self.raw[self.rest.clone()];
            let (result, read, written) = self.decoder.decode_to_utf8_without_replacement(raw, buffer, self.ended);
            self.rest.start += read;
            match result {
                DecoderResult::Malformed(..) => {
                    return Err(io::Error::other(Fault::Malformed(self.decoder.encoding().name())));
                }
                DecoderResult::InputEmpty => self.finished = self.ended,
                DecoderResult::OutputFull => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}
