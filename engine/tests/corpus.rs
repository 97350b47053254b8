//! The targets of `fuzz/` that read files, over their committed corpus.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/plain.rs"]
mod plain;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

#[test]
fn what_was_ever_found_holds() {
    plain::replay(targets::TARGETS);
}

#[test]
fn changed_bytes_break_nothing() {
    plain::change_a_little(targets::TARGETS);
}

/// `LATHE_FUZZ_SECONDS=60 cargo test -p engine --test corpus -- --ignored --nocapture`
#[test]
#[ignore = "takes a minute for each target"]
fn changed_bytes_for_long() {
    plain::change_for_long(targets::TARGETS);
}
