#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lathe_fuzz::targets::render(bytes));
