//! Filter expressions: `Service.Tags contains "v1" and not (Node.Meta.rack == r1)`.
//!
//! Grammar: `or` over `and` over `not`, parentheses, and matches of a selector with a value. Items are looked at
//! in their JSON form.

use serde::Serialize;
use serde_json::Value;

/// Deepest nesting of parentheses and `not`.
const DEEPEST: usize = 64;

/// What the listed objects are, which decides the selectors a filter may have.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `health/service`: a node, a service and its checks.
    Entry,
    Check,
    Node,
    /// `catalog/service`: flat.
    CatalogService,
    /// A service as `agent/services` and `catalog/node` list it.
    Service,
}

impl Shape {
    /// First parts a selector may have. Consul's indexes cannot be filtered by.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Shape::Entry => &["Node", "Service", "Checks"],
            Shape::Check => &[
                "Node",
                "CheckID",
                "Name",
                "Status",
                "Notes",
                "Output",
                "ServiceID",
                "ServiceName",
                "ServiceTags",
                "Type",
            ],
            Shape::Node => &["ID", "Node", "Address", "Datacenter", "TaggedAddresses", "Meta"],
            Shape::CatalogService => &[
                "ID",
                "Node",
                "Address",
                "Datacenter",
                "TaggedAddresses",
                "NodeMeta",
                "ServiceKind",
                "ServiceID",
                "ServiceName",
                "ServiceTags",
                "ServiceAddress",
                "ServiceTaggedAddresses",
                "ServiceWeights",
                "ServiceMeta",
                "ServicePort",
                "ServiceEnableTagOverride",
                "ServiceProxy",
                "ServiceConnect",
            ],
            Shape::Service => &[
                "Kind",
                "ID",
                "Service",
                "Tags",
                "Address",
                "TaggedAddresses",
                "Meta",
                "Port",
                "Weights",
                "EnableTagOverride",
                "Proxy",
                "Connect",
            ],
        }
    }
}

#[derive(Debug)]
pub enum Filter {
    All,
    /// Flat, not nested pair by pair: a query's length must not decide how deep the stack goes.
    Or(Vec<Filter>),
    And(Vec<Filter>),
    Not(Box<Filter>),
    Match {
        selector: Vec<String>,
        test: Test,
    },
}

#[derive(Debug)]
pub enum Test {
    Equal(String),
    /// The selected list holds the value, the map the key, or the text the part.
    Holds(String),
    Empty,
    Matches(Box<regex::Regex>),
}

impl Filter {
    pub fn parse(text: &str, shape: Shape) -> Result<Filter, String> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens, at: 0, depth: 0, shape };
        let filter = parser.or()?;
        match parser.peek() {
            None => Ok(filter),
            Some(token) => Err(format!("unexpected {:?}", token.text)),
        }
    }

    pub fn accepts<T: Serialize + ?Sized>(&self, item: &T) -> bool {
        match self {
            Filter::All => true,
            filter => serde_json::to_value(item).is_ok_and(|value| filter.test(&value)),
        }
    }

    fn test(&self, item: &Value) -> bool {
        match self {
            Filter::All => true,
            Filter::Or(any) => any.iter().any(|filter| filter.test(item)),
            Filter::And(all) => all.iter().all(|filter| filter.test(item)),
            Filter::Not(a) => !a.test(item),
            Filter::Match { selector, test } => found(item, selector, test),
        }
    }
}

/// A list on the way is entered: any of its members may match.
fn found(value: &Value, selector: &[String], test: &Test) -> bool {
    match (value, selector.split_first()) {
        (_, None) => test.passes(value),
        (Value::Array(items), _) => items.iter().any(|item| found(item, selector, test)),
        (Value::Object(map), Some((first, rest))) => match map.get(first) {
            Some(inner) => found(inner, rest, test),
            None => matches!(test, Test::Empty),
        },
        _ => matches!(test, Test::Empty),
    }
}

impl Test {
    fn passes(&self, value: &Value) -> bool {
        match self {
            Test::Equal(wanted) => same(value, wanted),
            Test::Holds(wanted) => match value {
                Value::Array(items) => items.iter().any(|item| same(item, wanted)),
                Value::Object(map) => map.contains_key(wanted),
                Value::String(text) => text.contains(wanted.as_str()),
                _ => false,
            },
            Test::Empty => match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            },
            Test::Matches(regex) => match value {
                Value::String(text) => regex.is_match(text),
                Value::Array(items) => items.iter().filter_map(Value::as_str).any(|t| regex.is_match(t)),
                _ => false,
            },
        }
    }
}

fn same(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Number(number) => wanted.parse::<f64>().is_ok_and(|w| number.as_f64() == Some(w)),
        Value::Bool(flag) => wanted == if *flag { "true" } else { "false" },
        _ => false,
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    quoted: bool,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' | ')' => (Token { text: first.to_string(), quoted: false }, 1),
            '=' | '!' if rest[1..].starts_with('=') => {
                (Token { text: rest[..2].to_owned(), quoted: false }, 2)
            }
            '"' | '`' => quoted(rest, first)?,
            _ => {
                let end = word_end(rest);
                if end == 0 {
                    return Err(format!("unexpected character {first:?}"));
                }
                (Token { text: rest[..end].to_owned(), quoted: false }, end)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// A word may hold `["..."]` parts with anything inside.
fn word_end(text: &str) -> usize {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if text[..at].ends_with('[') => inside = true,
            '"' if inside => inside = false,
            _ if inside => {}
            c if c.is_whitespace() || matches!(c, '(' | ')' | '=' | '!' | '"' | '`') => return at,
            _ => {}
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token { text: value, quoted: true }, at + 1)),
            '\\' if quote == '"' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    Err("unterminated string".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    shape: Shape,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is(&self, ahead: usize, word: &str) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|t| !t.quoted && t.text == word)
    }

    fn eat(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(ahead, word)| self.is(ahead, word));
        if all {
            self.at += words.len();
        }
        all
    }

    fn next(&mut self) -> Result<Token, String> {
        let token = self.peek().cloned().ok_or("unexpected end of expression")?;
        self.at += 1;
        Ok(token)
    }

    fn or(&mut self) -> Result<Filter, String> {
        let first = self.and()?;
        let mut any = vec![first];
        while self.eat(&["or"]) {
            any.push(self.and()?);
        }
        Ok(only(any, Filter::Or))
    }

    fn and(&mut self) -> Result<Filter, String> {
        let first = self.not()?;
        let mut all = vec![first];
        while self.eat(&["and"]) {
            all.push(self.not()?);
        }
        Ok(only(all, Filter::And))
    }

    fn not(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("expression is nested too deeply".to_owned());
        }
        let filter = if self.eat(&["not"]) {
            Filter::Not(Box::new(self.not()?))
        } else if self.eat(&["("]) {
            let inner = self.or()?;
            if !self.eat(&[")"]) {
                return Err("missing closing parenthesis".to_owned());
            }
            inner
        } else {
            self.condition()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn condition(&mut self) -> Result<Filter, String> {
        let first = self.next()?;
        let matches = |selector: Vec<String>, test| Filter::Match { selector, test };
        let negated = |filter| Filter::Not(Box::new(filter));
        if self.eat(&["in"]) {
            return Ok(matches(self.selector_token()?, Test::Holds(first.text)));
        }
        if self.eat(&["not", "in"]) {
            return Ok(negated(matches(self.selector_token()?, Test::Holds(first.text))));
        }
        let selector = selector(&first, self.shape)?;
        if self.eat(&["=="]) {
            return Ok(matches(selector, Test::Equal(self.next()?.text)));
        }
        if self.eat(&["!="]) {
            return Ok(negated(matches(selector, Test::Equal(self.next()?.text))));
        }
        if self.eat(&["is", "empty"]) {
            return Ok(matches(selector, Test::Empty));
        }
        if self.eat(&["is", "not", "empty"]) {
            return Ok(negated(matches(selector, Test::Empty)));
        }
        if self.eat(&["contains"]) {
            return Ok(matches(selector, Test::Holds(self.next()?.text)));
        }
        if self.eat(&["not", "contains"]) {
            return Ok(negated(matches(selector, Test::Holds(self.next()?.text))));
        }
        let not = self.eat(&["not"]);
        if self.eat(&["matches"]) {
            let pattern = self.next()?.text;
            let regex = regex::Regex::new(&pattern).map_err(|e| e.to_string())?;
            let filter = matches(selector, Test::Matches(Box::new(regex)));
            return Ok(if not { negated(filter) } else { filter });
        }
        Err(format!("no operator after {:?}", first.text))
    }

    fn selector_token(&mut self) -> Result<Vec<String>, String> {
        let token = self.next()?;
        selector(&token, self.shape)
    }
}

/// A single condition stays what it is.
fn only(mut several: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    match (several.len(), several.pop()) {
        (1, Some(one)) => one,
        (_, last) => {
            several.extend(last);
            join(several)
        }
    }
}

fn selector(token: &Token, shape: Shape) -> Result<Vec<String>, String> {
    let invalid = || format!("Selector {:?} is not valid", token.text);
    if token.quoted {
        return Err(invalid());
    }
    let mut parts = Vec::new();
    let mut rest = token.text.as_str();
    loop {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let end = inner.find("\"]").ok_or_else(invalid)?;
            parts.push(inner[..end].to_owned());
            rest = &inner[end + 2..];
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            // Also what makes each round go forward: a bracket that opens no quoted part is not passed over.
            if end == 0 {
                return Err(invalid());
            }
            parts.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            break;
        }
    }
    if parts.first().is_some_and(|p| shape.fields().contains(&p.as_str()))
        && parts.iter().all(|p| !p.is_empty())
    {
        Ok(parts)
    } else {
        Err(invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(expression: &str) -> bool {
        let item = serde_json::json!({
            "Node": {"Node": "n1", "Meta": {"rack": "r1", "a b": "c"}},
            "Service": {"Service": "web", "Tags": ["v1", "blue"], "Port": 80, "Meta": {}, "EnableTagOverride": false},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        });
        Filter::parse(expression, Shape::Entry).unwrap().accepts(&item)
    }

    #[test]
    fn conditions() {
        for yes in [
            "Service.Service == web",
            "Service.Service != \"db\"",
            "v1 in Service.Tags",
            "green not in Service.Tags",
            "Service.Tags contains blue",
            "Service.Tags not contains red",
            "Service.Meta is empty",
            "Service.Tags is not empty",
            "Service.Port == 80",
            "Service.EnableTagOverride == false",
            "Node.Meta.rack matches `^r[0-9]$`",
            "Node.Meta.rack not matches x",
            "Node.Meta[\"a b\"] == c",
            "rack in Node.Meta",
            "Checks.Status == critical",
            "not (Service.Port == 81 or v2 in Service.Tags)",
            "Service.Port == 81 or Service.Service == web and v1 in Service.Tags",
        ] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["Service.Service == db", "Node.Meta.none == x", "not v1 in Service.Tags"] {
            assert!(!accepts(no), "{no}");
        }
    }

    #[test]
    fn bad_ones_are_refused() {
        for bad in [
            "foo == 1",
            "Service.Port",
            "(Service.Port == 1",
            "Service.Port == 1 x",
            "Service.Port ==",
            "\"a",
            "",
            // brackets that open nothing
            "Service[ == 1",
            "Service[x] == 1",
            "Service.Meta[\"a\"][ == 1",
            "Service..Port == 1",
            ".Service == 1",
        ] {
            assert!(Filter::parse(bad, Shape::Entry).is_err(), "{bad}");
        }
        assert_eq!(Filter::parse("foo == 1", Shape::Entry).unwrap_err(), "Selector \"foo\" is not valid");
        assert!(Filter::parse(&"(".repeat(100_000), Shape::Entry).is_err());
    }

    /// As long as a URI can be; a stack of a frame per operator would overflow.
    #[test]
    fn a_long_chain_costs_no_stack() {
        for word in [" or ", " and "] {
            let text = vec!["Service.Port==80"; 50_000].join(word);
            let small = std::thread::Builder::new().stack_size(256 << 10);
            let accepted = small.spawn(move || accepts(&text)).unwrap().join().unwrap();
            assert!(accepted);
        }
    }

    #[test]
    fn a_selector_of_another_list_is_refused() {
        for (fits, not) in [(Shape::Check, Shape::Service), (Shape::Check, Shape::Entry)] {
            assert!(Filter::parse("CheckID == a", fits).is_ok());
            assert!(Filter::parse("CheckID == a", not).is_err(), "{not:?}");
        }
        assert!(Filter::parse("ServiceName == a", Shape::CatalogService).is_ok());
        assert!(Filter::parse("ServiceName == a", Shape::Node).is_err());
        assert!(Filter::parse("Meta.rack == a", Shape::Node).is_ok());
        assert!(Filter::parse("ModifyIndex == 1", Shape::Node).is_err());
    }
}
