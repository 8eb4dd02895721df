//! Regular expressions of a Kong file. They are PCRE; nearly all of them also are what Rust's linear-time engine reads, and the rest
//! (lookaround, backreferences) runs on a backtracking engine with a step limit.

/// Steps a backtracking match may take before it counts as "no match".
const BACKTRACK_LIMIT: usize = 100_000;
/// Compiled size of one expression, bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Pattern(Engine);

#[derive(Clone, Debug)]
enum Engine {
    Linear(regex::Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

/// Values of named and numbered groups.
pub type Captures = Vec<(String, String)>;

impl Pattern {
    /// Compiles an expression that has to match at the start of the text (not necessarily to its end).
    ///
    /// # Errors
    /// The engine's complaint, one line.
    pub fn anchored(pattern: &str) -> Result<Pattern, String> {
        Pattern::compile(&format!("^(?:{})", translate(pattern)))
    }

    /// Compiles an expression that has to match the whole text.
    ///
    /// # Errors
    /// The engine's complaint, one line.
    pub fn whole(pattern: &str) -> Result<Pattern, String> {
        Pattern::compile(&format!("^(?:{})$", translate(pattern)))
    }

    /// Compiles an expression that may match anywhere.
    ///
    /// # Errors
    /// The engine's complaint, one line.
    pub fn anywhere(pattern: &str) -> Result<Pattern, String> {
        Pattern::compile(&translate(pattern))
    }

    /// Compiles an expression that may match anywhere, ignoring case.
    ///
    /// # Errors
    /// The engine's complaint, one line.
    pub fn anywhere_ignoring_case(pattern: &str) -> Result<Pattern, String> {
        Pattern::compile(&format!("(?i){}", translate(pattern)))
    }

    fn compile(pattern: &str) -> Result<Pattern, String> {
        if let Ok(regex) = regex::RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).build() {
            return Ok(Pattern(Engine::Linear(regex)));
        }
        fancy_regex::RegexBuilder::new(pattern)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(SIZE_LIMIT)
            .build()
            .map(|regex| Pattern(Engine::Backtracking(Box::new(regex))))
            .map_err(|error| last_line(&error.to_string()))
    }

    /// Whether an expression compiles, without building the machine when its syntax already says so (a file may hold thousands).
    pub(crate) fn check(pattern: &str) -> Result<(), String> {
        let pattern = translate(pattern);
        if regex_syntax::parse(&pattern).is_ok() {
            return Ok(());
        }
        Pattern::compile(&pattern).map(|_| ())
    }

    pub fn is_match(&self, text: &str) -> bool {
        match &self.0 {
            Engine::Linear(regex) => regex.is_match(text),
            Engine::Backtracking(regex) => regex.is_match(text).unwrap_or(false),
        }
    }

    /// Length of the match at the start of the text.
    pub fn match_len(&self, text: &str) -> Option<usize> {
        match &self.0 {
            Engine::Linear(regex) => regex.find(text).map(|found| found.end()),
            Engine::Backtracking(regex) => regex.find(text).ok().flatten().map(|found| found.end()),
        }
    }

    /// From where to where each numbered group matched; `None` when the text does not match.
    pub(crate) fn group_spans(&self, text: &str) -> Option<Vec<(usize, usize)>> {
        match &self.0 {
            Engine::Linear(regex) => {
                let found = regex.captures(text)?;
                Some(found.iter().skip(1).flatten().map(|group| (group.start(), group.end())).collect())
            }
            Engine::Backtracking(regex) => {
                let found = regex.captures(text).ok().flatten()?;
                Some(found.iter().skip(1).flatten().map(|group| (group.start(), group.end())).collect())
            }
        }
    }

    /// Groups that took part, by name and by number ("1" is the first).
    pub fn captures(&self, text: &str) -> Captures {
        match &self.0 {
            Engine::Linear(regex) => {
                let Some(found) = regex.captures(text) else { return Captures::new() };
                named(regex.capture_names(), |index| found.get(index).map(|group| group.as_str()))
            }
            Engine::Backtracking(regex) => {
                let Some(found) = regex.captures(text).ok().flatten() else { return Captures::new() };
                named(regex.capture_names(), |index| found.get(index).map(|group| group.as_str()))
            }
        }
    }
}

fn named<'n, 't>(
    names: impl Iterator<Item = Option<&'n str>>,
    group: impl Fn(usize) -> Option<&'t str>,
) -> Captures {
    let mut captures = Captures::new();
    for (index, name) in names.enumerate().skip(1) {
        let Some(text) = group(index) else { continue };
        captures.push((index.to_string(), text.to_owned()));
        if let Some(name) = name {
            captures.push((name.to_owned(), text.to_owned()));
        }
    }
    captures
}

fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim().to_owned()
}

/// PCRE reads a brace that starts no counted repetition as itself, and knows `\/`, `\_` and the like; Rust refuses both.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escaped = after.chars().next();
                match escaped {
                    // `\p{…}`, `\x{…}`: the brace belongs to the escape.
                    Some(kind @ ('p' | 'P' | 'x' | 'u' | 'k' | 'g')) => {
                        out.push('\\');
                        out.push(kind);
                        let tail = &after[1..];
                        let len =
                            if tail.starts_with('{') { tail.find('}').map_or(0, |end| end + 1) } else { 0 };
                        out.push_str(&tail[..len]);
                        rest = &tail[len..];
                    }
                    Some(other) => {
                        let needless = !other.is_ascii()
                            || matches!(
                                other,
                                '/' | '_' | '"' | '\'' | ' ' | '%' | '@' | ':' | ',' | ';' | '=' | '!'
                            );
                        if !needless {
                            out.push('\\');
                        }
                        out.push(other);
                        rest = &after[other.len_utf8()..];
                    }
                    None => {
                        out.push('\\');
                        rest = after;
                    }
                }
                continue;
            }
            '[' if !in_class => in_class = true,
            // Rust reads `[` inside a class as a nested class.
            '[' if !after.starts_with(':') => out.push('\\'),
            ']' => in_class = false,
            '{' if !in_class && !is_repetition(after) => out.push('\\'),
            _ => {}
        }
        out.push(c);
        rest = after;
    }
    out
}

/// After a brace: `3}`, `3,}`, `3,5}`.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let (low, high) = inside.split_once(',').unwrap_or((inside, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// The text every match has to begin with: what comes before the first operator.
pub fn literal_prefix(pattern: &str) -> String {
    if has_top_level_choice(pattern) || pattern.contains("(?i") || pattern.contains("(?x") {
        return String::new();
    }
    let mut prefix = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => match chars.next() {
                Some(escaped) if escaped.is_ascii_punctuation() => escaped,
                _ => break,
            },
            '.' | '[' | '(' | ')' | '|' | '^' | '$' | '{' | '}' | '*' | '+' | '?' => break,
            other => other,
        };
        // An optional or repeated character is not certain to be there.
        if matches!(chars.peek(), Some('*' | '?' | '{')) {
            break;
        }
        prefix.push(literal);
    }
    prefix
}

fn has_top_level_choice(pattern: &str) -> bool {
    let mut depth = 0_usize;
    let mut in_class = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_that_count_nothing_are_literal() {
        let pattern = Pattern::anchored("/movies/{id}").unwrap();
        assert_eq!(pattern.match_len("/movies/{id}/x"), Some(12));
        assert!(Pattern::anchored(r"/a\d{2,3}$").unwrap().is_match("/a123"));
        assert!(Pattern::anchored(r"\/v1\/[^/[]+").unwrap().is_match("/v1/x"));
    }

    #[test]
    fn lookaround_works_and_nonsense_does_not_compile() {
        assert!(Pattern::anchored("/(?!admin).*").unwrap().is_match("/user"));
        assert!(!Pattern::anchored("/(?!admin).*").unwrap().is_match("/admin"));
        assert!(Pattern::check("/a(").is_err());
        assert!(Pattern::check("/a[").is_err());
    }

    #[test]
    fn captures_by_name_and_number() {
        let captures = Pattern::anchored(r"/u/(?<id>\d+)/(\w+)").unwrap().captures("/u/42/x");
        let expected = [("1", "42"), ("id", "42"), ("2", "x")];
        assert_eq!(captures, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec());
    }

    #[test]
    fn literal_prefixes() {
        assert_eq!(literal_prefix(r"/users/(?<id>\d+)$"), "/users/");
        assert_eq!(literal_prefix(r"/v1\.0/x?"), "/v1.0/");
        assert_eq!(literal_prefix("/a|/b"), "");
        assert_eq!(literal_prefix("/ab+"), "/ab");
    }
}
