#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        for format in [plinth_kong::Format::Yaml, plinth_kong::Format::Json] {
            let _ = plinth_kong::load(text, format);
        }
    }
});
