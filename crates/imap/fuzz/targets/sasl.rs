#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| imaptrace_imap::fuzzed::sasl(input));
