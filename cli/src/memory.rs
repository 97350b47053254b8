//! How the allocator treats memory that was given back.

/// Keeps freed memory for a minute before the system gets it back: a training step frees and asks for the same
/// gigabyte again and again, and having the system clear it each time costs a fifth of the step.
#[allow(unsafe_code)]
pub fn keep_freed_for_a_minute() {
    /// `mi_option_purge_delay` of mimalloc 2 and 3, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number inside the allocator, which it may be asked for at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 60_000) };
}
