//! Memory of this machine and memory of this process in bytes, as Linux tells them; unknown elsewhere.

use std::fs;

/// What programs can have now.
pub fn free() -> Option<u64> {
    read("/proc/meminfo", "MemAvailable:")
}

/// The most that this process has held so far.
pub fn peak() -> Option<u64> {
    read("/proc/self/status", "VmHWM:")
}

fn read(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
