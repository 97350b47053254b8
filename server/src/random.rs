//! Random bits that nobody guesses.

use std::{
    fmt::Write,
    fs::File,
    io::{self, Read},
};

/// So many random bytes, as hexadecimal digits.
pub fn hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(to_hex(&random))
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
