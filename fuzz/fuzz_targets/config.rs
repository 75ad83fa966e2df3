#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| statsring_fuzz::config::run(bytes));
