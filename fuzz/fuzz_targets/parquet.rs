#![no_main]

// The engine catches panics of the library that reads this; libfuzzer's own hook would end the process before.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |bytes: &[u8]| lathe_fuzz::targets::parquet(bytes));
