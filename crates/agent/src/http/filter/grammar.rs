//! The grammar of filter expressions (go-bexpr's): a recursive-descent reader that tries alternatives in the grammar's
//! order and remembers what it wanted at the farthest place it came to, because Consul's error texts name exactly that.

use std::collections::BTreeSet;

/// Deepest nesting of parentheses and `not`.
const DEEPEST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    IsEmpty,
    IsNotEmpty,
    Matches,
    NotMatches,
}

/// A condition as written: the value is text until the selected field says what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub selector: Vec<String>,
    pub operator: Operator,
    pub value: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Expression {
    /// Flat, not nested pair by pair: a query's length must not decide how deep the stack goes.
    Or(Vec<Expression>),
    And(Vec<Expression>),
    Not(Box<Expression>),
    Condition(Condition),
}

pub fn parse(text: &str) -> Result<Expression, String> {
    let mut reader =
        Reader { text, at: 0, depth: 0, farthest: 0, wanted: BTreeSet::new(), faults: Vec::new() };
    let parsed = reader.input();
    if let Some(fault) = reader.faults.first() {
        let all: Vec<&str> = reader.faults.iter().map(String::as_str).collect();
        return Err(if all.len() == 1 { fault.clone() } else { all.join("\n") });
    }
    parsed.ok_or_else(|| reader.nothing_fits())
}

const END: &str = "EOF";
const BLANK: &str = "[ \\t\\r\\n]";

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    farthest: usize,
    wanted: BTreeSet<&'static str>,
    /// Faults with a place and a name of their own; one of them is enough to refuse.
    faults: Vec<String>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn want(&mut self, what: &'static str) {
        if self.at > self.farthest {
            self.farthest = self.at;
            self.wanted.clear();
        }
        if self.at == self.farthest {
            self.wanted.insert(what);
        }
    }

    fn place(&self, at: usize) -> String {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{line}:{column} ({at})")
    }

    fn fault(&mut self, rule: &str, why: &str) {
        self.fault_at(self.at, rule, why);
    }

    fn fault_at(&mut self, at: usize, rule: &str, why: &str) {
        let text = format!("{}: rule \"{rule}\": {why}", self.place(at));
        if !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }

    fn nothing_fits(&self) -> String {
        let mut words: Vec<&str> = self.wanted.iter().copied().filter(|w| *w != END).collect();
        if self.wanted.contains(END) {
            words.push(END);
        }
        let list = match words.split_last() {
            None => String::new(),
            Some((only, [])) => (*only).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
        };
        format!("{}: no match found, expected: {list}", self.place(self.farthest))
    }

    /// Goes back when `read` finds nothing.
    fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = before;
        }
        found
    }

    fn literal(&mut self, text: &str, name: &'static str) -> Option<()> {
        if self.rest().starts_with(text) {
            self.at += text.len();
            return Some(());
        }
        self.want(name);
        None
    }

    fn blanks(&mut self) -> Option<()> {
        let length = self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += length;
        self.want(BLANK);
        (length > 0).then_some(())
    }

    fn maybe_blanks(&mut self) {
        let _ = self.blanks();
    }

    fn end(&mut self) -> Option<()> {
        if self.rest().is_empty() {
            return Some(());
        }
        self.want(END);
        None
    }

    fn input(&mut self) -> Option<Expression> {
        let in_parentheses = |r: &mut Self| {
            r.maybe_blanks();
            r.literal("(", "\"(\"")?;
            r.maybe_blanks();
            let inner = r.or()?;
            r.maybe_blanks();
            r.literal(")", "\")\"")?;
            r.maybe_blanks();
            r.end()?;
            Some(inner)
        };
        let plain = |r: &mut Self| {
            r.maybe_blanks();
            let whole = r.or()?;
            r.maybe_blanks();
            r.end()?;
            Some(whole)
        };
        // What the first form alone would find at fault is found again by the second.
        self.attempt(in_parentheses).or_else(|| self.attempt(plain))
    }

    fn or(&mut self) -> Option<Expression> {
        self.chain("or", "\"or\"", Self::and, Expression::Or)
    }

    fn and(&mut self) -> Option<Expression> {
        self.chain("and", "\"and\"", Self::not, Expression::And)
    }

    fn chain(
        &mut self,
        word: &str,
        name: &'static str,
        part: fn(&mut Self) -> Option<Expression>,
        join: fn(Vec<Expression>) -> Expression,
    ) -> Option<Expression> {
        let first = part(self)?;
        let mut more = Vec::new();
        while let Some(next) = self.attempt(|r| {
            r.blanks()?;
            r.literal(word, name)?;
            r.blanks()?;
            part(r)
        }) {
            more.push(next);
        }
        if more.is_empty() {
            return Some(first);
        }
        more.insert(0, first);
        Some(join(more))
    }

    fn not(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            self.fault("grouping", "expression is nested too deeply");
            self.depth -= 1;
            return None;
        }
        let negated = |r: &mut Self| {
            r.literal("not", "\"not\"")?;
            r.blanks()?;
            r.not().map(|inner| Expression::Not(Box::new(inner)))
        };
        let found = self.attempt(negated).or_else(|| self.grouping());
        self.depth -= 1;
        found
    }

    fn grouping(&mut self) -> Option<Expression> {
        let before = self.at;
        let mut unmatched = None;
        if self.literal("(", "\"(\"").is_some() {
            self.maybe_blanks();
            if let Some(inner) = self.or() {
                self.maybe_blanks();
                if self.literal(")", "\")\"").is_some() {
                    return Some(inner);
                }
                unmatched = Some(self.at);
            }
        }
        self.at = before;
        if let Some(found) = self.condition() {
            return Some(found);
        }
        if let Some(at) = unmatched {
            self.fault_at(at, "grouping", "Unmatched parentheses");
        }
        None
    }

    fn condition(&mut self) -> Option<Expression> {
        let found = self
            .attempt(Self::selector_and_value)
            .or_else(|| self.attempt(Self::selector_alone))
            .or_else(|| self.attempt(Self::value_and_selector));
        found.map(Expression::Condition)
    }

    fn selector_and_value(&mut self) -> Option<Condition> {
        let selector = self.selector()?;
        let operator = self
            .attempt(|r| r.sign("==", "\"==\"", Operator::Equal))
            .or_else(|| self.attempt(|r| r.sign("!=", "\"!=\"", Operator::NotEqual)))
            .or_else(|| self.attempt(|r| r.words(&[CONTAINS], true, Operator::In)))
            .or_else(|| self.attempt(|r| r.words(&[NOT, CONTAINS], true, Operator::NotIn)))
            .or_else(|| self.attempt(|r| r.words(&[MATCHES], true, Operator::Matches)))
            .or_else(|| self.attempt(|r| r.words(&[NOT, MATCHES], true, Operator::NotMatches)))?;
        let value = self.value()?;
        Some(Condition { selector, operator, value })
    }

    fn selector_alone(&mut self) -> Option<Condition> {
        let selector = self.selector()?;
        let operator = self
            .attempt(|r| r.words(&[IS, EMPTY], false, Operator::IsEmpty))
            .or_else(|| self.attempt(|r| r.words(&[IS, NOT, EMPTY], false, Operator::IsNotEmpty)))?;
        Some(Condition { selector, operator, value: String::new() })
    }

    fn value_and_selector(&mut self) -> Option<Condition> {
        let value = self.value()?;
        let operator = self
            .attempt(|r| r.words(&[IN], true, Operator::In))
            .or_else(|| self.attempt(|r| r.words(&[NOT, IN], true, Operator::NotIn)))?;
        match self.attempt(Self::selector) {
            Some(selector) => Some(Condition { selector, operator, value }),
            None => {
                self.fault("match", "Invalid selector");
                None
            }
        }
    }

    fn sign(&mut self, text: &str, name: &'static str, operator: Operator) -> Option<Operator> {
        self.maybe_blanks();
        self.literal(text, name)?;
        self.maybe_blanks();
        Some(operator)
    }

    fn words(&mut self, words: &[Word], blank_after: bool, operator: Operator) -> Option<Operator> {
        for (word, name) in words {
            self.blanks()?;
            self.literal(word, name)?;
        }
        if blank_after {
            self.blanks()?;
        }
        Some(operator)
    }

    fn identifier(&mut self) -> Option<String> {
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.want("[a-zA-Z]");
            return None;
        }
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += length;
        self.want("[a-zA-Z0-9_]");
        Some(rest[..length].to_owned())
    }

    fn selector(&mut self) -> Option<Vec<String>> {
        let mut parts = vec![self.identifier()?];
        while let Some(part) = self.attempt(Self::dotted).or_else(|| self.attempt(Self::index)) {
            parts.push(part);
        }
        Some(parts)
    }

    fn dotted(&mut self) -> Option<String> {
        self.literal(".", "\".\"")?;
        self.identifier()
    }

    fn index(&mut self) -> Option<String> {
        self.literal("[", "\"[\"")?;
        self.maybe_blanks();
        let Some(text) = self.attempt(Self::string) else {
            self.fault("index", "Invalid index");
            return None;
        };
        self.maybe_blanks();
        if self.literal("]", "\"]\"").is_none() {
            self.fault("index", "Unclosed index expression");
            return None;
        }
        Some(text)
    }

    fn value(&mut self) -> Option<String> {
        self.attempt(|r| r.selector().map(|parts| parts.join(".")))
            .or_else(|| self.attempt(Self::number))
            .or_else(|| self.attempt(Self::string))
    }

    fn number(&mut self) -> Option<String> {
        let start = self.at;
        let _ = self.literal("-", "\"-\"");
        if self.literal("0", "\"0\"").is_none() {
            if !self.rest().starts_with(|c: char| matches!(c, '1'..='9')) {
                self.want("[1-9]");
                return None;
            }
            self.digits();
        }
        let _ = self.attempt(|r| {
            r.literal(".", "\".\"")?;
            let before = r.at;
            r.digits();
            (r.at > before).then_some(())
        });
        let text = self.text[start..self.at].to_owned();
        let here = self.at;
        let ends = self.blanks().is_some() || self.end().is_some() || self.literal(")", "\")\"").is_some();
        self.at = here;
        if !ends {
            self.fault("number", "Invalid number literal");
            return None;
        }
        Some(text)
    }

    fn digits(&mut self) {
        let rest = self.rest();
        self.at += rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.want("[0-9]");
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        let quote = if self.literal("`", "\"`\"").is_some() {
            '`'
        } else {
            self.literal("\"", "\"\\\"\"")?;
            '"'
        };
        let rest = self.rest();
        let Some(length) = rest.find(quote) else {
            self.at = self.text.len();
            self.fault("string", "Unterminated string literal");
            return None;
        };
        self.at += length + 1;
        let inner = &rest[..length];
        if quote == '`' {
            return Some(inner.replace('\r', ""));
        }
        let unquoted = unquote(inner);
        if unquoted.is_none() {
            self.fault_at(start, "string", "invalid syntax");
        }
        unquoted
    }
}

type Word = (&'static str, &'static str);
const CONTAINS: Word = ("contains", "\"contains\"");
const EMPTY: Word = ("empty", "\"empty\"");
const IN: Word = ("in", "\"in\"");
const IS: Word = ("is", "\"is\"");
const MATCHES: Word = ("matches", "\"matches\"");
const NOT: Word = ("not", "\"not\"");

fn digits(chars: &mut std::str::Chars<'_>, count: usize, radix: u32) -> Option<u32> {
    (0..count).try_fold(0_u32, |n, _| n.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?))
}

/// The inside of a quoted string with Go's escapes; `None` when one is not Go's.
fn unquote(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\n' {
            return None;
        }
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let code = match chars.clone().next()? {
            'x' => {
                chars.next();
                out.push(u8::try_from(digits(&mut chars, 2, 16)?).ok()?);
                continue;
            }
            'u' => {
                chars.next();
                digits(&mut chars, 4, 16)?
            }
            'U' => {
                chars.next();
                digits(&mut chars, 8, 16)?
            }
            '0'..='7' => {
                out.push(u8::try_from(digits(&mut chars, 3, 8)?).ok()?);
                continue;
            }
            other => {
                chars.next();
                match other {
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'n' => 10,
                    'r' => 13,
                    't' => 9,
                    'v' => 11,
                    '\\' => '\\' as u32,
                    _ => return None,
                }
            }
        };
        out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts as Consul 1.8.7 gave them.
    #[test]
    fn refusals_in_consuls_words() {
        for (text, error) in [
            ("foo", r#"1:4 (3): no match found, expected: "!=", ".", "==", "[", [ \t\r\n] or [a-zA-Z0-9_]"#),
            (
                "foo ==",
                r#"1:7 (6): no match found, expected: "-", "0", "\"", "`", [ \t\r\n], [1-9] or [a-zA-Z]"#,
            ),
            (r#"Service == "web"#, r#"1:16 (15): rule "string": Unterminated string literal"#),
            ("Service == web and", r"1:19 (18): no match found, expected: [ \t\r\n]"),
            ("(Service == web", r#"1:16 (15): rule "grouping": Unmatched parentheses"#),
            (
                "Service = web",
                r#"1:9 (8): no match found, expected: "!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]"#,
            ),
            (
                " ",
                r#"1:2 (1): no match found, expected: "(", "-", "0", "\"", "`", "not", [ \t\r\n], [1-9] or [a-zA-Z]"#,
            ),
            (r#""web"==Service"#, r"1:6 (5): no match found, expected: [ \t\r\n]"),
            ("Port==080", r#"1:8 (7): rule "number": Invalid number literal"#),
            (
                "Service==we-b",
                r#"1:12 (11): no match found, expected: ".", "[", [ \t\r\n], [a-zA-Z0-9_] or EOF"#,
            ),
            (
                "Service==web AND Port==80",
                r#"1:14 (13): no match found, expected: "and", "or", [ \t\r\n] or EOF"#,
            ),
            (r#"Service=="we\"b""#, r#"1:10 (9): rule "string": invalid syntax"#),
            ("Service  in (a,b)", r#"1:13 (12): rule "match": Invalid selector"#),
            ("Service not==web", r"1:12 (11): no match found, expected: [ \t\r\n]"),
            ("Address==10.0.0.1", r#"1:14 (13): rule "number": Invalid number literal"#),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&"not ".repeat(100_000)).is_err());
    }

    /// As long as a URI can be; a stack of a frame per operator would overflow.
    #[test]
    fn a_long_chain_costs_no_stack() {
        for word in [" or ", " and "] {
            let text = vec!["Port==80"; 50_000].join(word);
            let small = std::thread::Builder::new().stack_size(256 << 10);
            assert!(small.spawn(move || parse(&text).is_ok()).unwrap().join().unwrap());
        }
    }

    #[test]
    fn nested_parentheses_are_read_in_reasonable_time() {
        let text = format!("{}Port == 80{}", "(".repeat(20), ")".repeat(20));
        assert!(parse(&text).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn any_words_are_survived(words in proptest::collection::vec(
            prop::sample::select(vec!["a", "(", ")", "not", "and", "or", "in", "==", "\"x\"", "1", "[", "]", "is", "empty"]), 0..12))
        {
            let _ = parse(&words.join(" "));
        }
    }
}
