//! Regular expressions as clients of Consul write them (Go's syntax, which this crate's engine shares but for rarities),
//! with the refusals in Go's words where a reader can tell them apart.

use regex::{Regex, RegexBuilder};

/// Bytes of a compiled expression; more is refused.
const LARGEST: usize = 1 << 20;

pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(LARGEST).build().map_err(|error| {
        let why = told(pattern, &error);
        format!("error parsing regexp: {why}")
    })
}

fn told(pattern: &str, error: &regex::Error) -> String {
    let regex::Error::Syntax(text) = error else { return format!("expression is too large: `{pattern}`") };
    let says = |what: &str| text.contains(what);
    if says("unclosed group") {
        format!("missing closing ): `{pattern}`")
    } else if says("unopened group") {
        format!("unexpected ): `{pattern}`")
    } else if says("unclosed character class") {
        let from = pattern.rfind('[').unwrap_or(0);
        format!("missing closing ]: `{}`", &pattern[from..])
    } else if says("repetition operator missing expression") {
        let at = pattern.find(['*', '+', '?']).unwrap_or(0);
        format!("missing argument to repetition operator: `{}`", &pattern[at..=at])
    } else if says("incomplete escape sequence") {
        "trailing backslash at end of expression: ``".to_owned()
    } else {
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("{last}: `{pattern}`")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn refusals_in_gos_words() {
        for (pattern, why) in [
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("a[b", "missing closing ]: `[b`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a\\", "trailing backslash at end of expression: ``"),
        ] {
            assert_eq!(super::compile(pattern).unwrap_err(), format!("error parsing regexp: {why}"));
        }
        assert!(super::compile("^r[0-9]$").unwrap().is_match("r1"));
    }
}
