//! Whatever is given as a Kong file is loaded or refused with faults, see docs/fuzzing.md.

#[test]
fn files() {
    let words = [
        "services:\n",
        "- name: ",
        "paths: [",
        "]",
        "{",
        "}",
        "&a",
        "*a",
        "!!str ",
        "|\n",
        "? ",
        ": ",
        "null",
        "~",
        "\"",
        "_format_version: \"3.0\"\n",
        "~/\\d+(?<n>",
        "plugins:\n",
        "config:",
        "<<: *a",
        "\u{feff}",
        "\t",
    ];
    plinth_testbed::fuzz::run("kong_file", &words, |data| {
        if let Ok(text) = std::str::from_utf8(data) {
            for format in [plinth_kong::Format::Yaml, plinth_kong::Format::Json] {
                match plinth_kong::load(text, format) {
                    Ok(_) => {}
                    Err(faults) => assert!(!faults.to_string().is_empty()),
                }
            }
        }
    });
}
