//! What the kernel tells of the machine and of this process.

use std::{fs, path::Path};

/// Bytes of memory that the machine has, and what of it is free for more.
pub struct Memory {
    pub total: u64,
    pub available: u64,
}

/// None where the kernel doesn't say.
pub fn memory() -> Option<Memory> {
    let fields = Fields::read("/proc/meminfo")?;
    Some(Memory { total: fields.bytes("MemTotal")?, available: fields.bytes("MemAvailable")? })
}

/// A file of `name: number [kB]` lines, such as `/proc/self/status`.
pub struct Fields(String);

impl Fields {
    pub fn read(path: impl AsRef<Path>) -> Option<Self> {
        fs::read_to_string(path).ok().map(Self)
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Of a field in kB.
    pub fn bytes(&self, name: &str) -> Option<u64> {
        Some(self.number(name)?.saturating_mul(1024))
    }
}
