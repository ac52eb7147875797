#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tribus_fuzz::records::check(data));
