//! Memory of this process: how the allocator treats what was given back, a limit to it, and what happens when there is no
//! more. The standard library would abort without a word; here a thread that waits for it says the last word of the run.

use mimalloc::MiMalloc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    env::args_os,
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, sleep},
    time::Duration,
};

/// mimalloc, which gives memory back to the system sooner than the allocator of the C library; with a watch for its end.
pub struct Allocator;

/// Whether somebody waits for the memory to run out, and the bytes that couldn't be had.
static IS_WATCHED: AtomicBool = AtomicBool::new(false);
static MISSING: AtomicUsize = AtomicUsize::new(0);
/// The watch looks this often.
const PACE: Duration = Duration::from_millis(100);
/// Kept for the last word.
const RESERVE: usize = 8 << 20;

thread_local! {
    /// The thread that says the last word, which has nobody to turn to.
    static IS_WATCH: Cell<bool> = const { Cell::new(false) };
}

#[allow(unsafe_code)]
// SAFETY: each call is mimalloc's own; what it returns is only looked at.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised to this call.
        or_wait(unsafe { MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised to this call.
        or_wait(unsafe { MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as promised to this call.
        or_wait(unsafe { MiMalloc.realloc(old, layout, size) }, size)
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as promised to this call.
        unsafe { MiMalloc.dealloc(old, layout) };
    }
}

/// A thread whose memory couldn't be had waits for the process to end, where somebody sees to that.
fn or_wait(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() && IS_WATCHED.load(Ordering::Relaxed) && !IS_WATCH.get() {
        MISSING.store(size.max(1), Ordering::Relaxed);
        loop {
            sleep(Duration::from_secs(1));
        }
    }
    memory
}

/// From now on `end` is called once memory runs out, with the bytes that were asked for last. It must end the process.
pub fn watch(end: impl FnOnce(usize) + Send + 'static) {
    let mut reserve = vec![0u8; RESERVE];
    // Touched, or it would be promised only.
    reserve.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let wait = move || {
        IS_WATCH.set(true);
        let missing = loop {
            match MISSING.load(Ordering::Relaxed) {
                0 => sleep(PACE),
                bytes => break bytes,
            }
        };
        drop(reserve);
        end(missing);
    };
    if thread::Builder::new().name("memory".into()).spawn(wait).is_ok() {
        IS_WATCHED.store(true, Ordering::Relaxed);
    }
}

/// Lets this process have so many bytes of memory and no more. What the allocator took at the start doesn't count against
/// a limit that comes later, so the program begins anew under it.
pub fn limit(bytes: u64) -> std::io::Result<()> {
    if getrlimit(Resource::RLIMIT_DATA)?.0 == bytes {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
    Err(Command::new("/proc/self/exe").args(args_os().skip(1)).exec())
}

/// Whether the system may back memory with pages of 2 MB. Computing gains by them; a server that waits would hold several
/// times of what it uses. A process takes it over from the one that starts it.
pub fn huge_pages(allowed: bool) {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(!allowed) {
        tracing::debug!("huge pages: {error}");
    }
}

/// `8G`, `512M`, or a number of bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().trim_end_matches(['B', 'I']) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit).filter(|bytes| *bytes > 0)
}

/// Keeps freed memory for a minute before the system gets it back: a training step frees and asks for the same
/// gigabyte again and again, and having the system clear it each time costs a fifth of the step.
#[allow(unsafe_code)]
pub fn keep_freed_for_a_minute() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number inside the allocator, which it may be asked for at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 60_000) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_people_do() {
        let read = ["8G", "512M", "1GiB", "4096", "2kb", "0", "8X", "G", "", "-1G", "99999999999G"].map(bytes);
        let gib = 1 << 30;
        assert_eq!(
            read,
            [Some(8 * gib), Some(gib / 2), Some(gib), Some(4096), Some(2048), None, None, None, None, None, None]
        );
    }
}
