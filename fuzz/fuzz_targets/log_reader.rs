#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| plinth_agent::fuzzing::log_reader(data));
