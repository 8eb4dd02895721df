#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| plinth_agent::fuzzing::filter_expression(data));
