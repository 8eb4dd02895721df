//! The parser of template expressions: Lua's precedences, one function a level.

use super::{Expr, Source, Value};

/// Nesting of parentheses and operators.
const DEPTH: usize = 200;
/// Names of Lua that mean something else here, and of what Kong offers besides.
const METHODS: &str = "sub, lower, upper";

type Parsed = Result<Expr, String>;

/// Length of the parenthesised text at the start, counted as Lua's `%b()` does: quotes mean nothing.
pub(super) fn balanced(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// One whole expression.
pub(super) fn expression(text: &str) -> Parsed {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, depth: 0 };
    let expression = parser.or()?;
    match parser.tokens.first() {
        None => Ok(expression),
        Some(token) => Err(format!("unexpected {}", token.shown())),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(i64),
    Symbol(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Name(name) => format!("'{name}'"),
            Token::Text(_) => "a string".to_owned(),
            Token::Number(number) => format!("'{number}'"),
            Token::Symbol(symbol) => format!("'{symbol}'"),
        }
    }
}

const SYMBOLS: &[&str] = &["..", "==", "~=", "(", ")", "[", "]", ".", ":", ",", "-"];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Name(rest[..end].to_owned()), &rest[end..])
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
                // `1..x` is a number and a concatenation.
                let end = rest[..end].find("..").unwrap_or(end);
                let number =
                    rest[..end].parse().map_err(|_| format!("unsupported number '{}'", &rest[..end]))?;
                (Token::Number(number), &rest[end..])
            }
            '"' | '\'' => string(rest, first)?,
            _ => {
                let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
                let Some(symbol) = symbol else { return Err(format!("unsupported '{first}'")) };
                (Token::Symbol(symbol), &rest[symbol.len()..])
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

/// A quoted string with Lua's common escapes.
fn string(text: &str, quote: char) -> Result<(Token, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((Token::Text(out), &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, c @ ('\\' | '"' | '\''))) => out.push(c),
                Some((_, c)) => return Err(format!("unsupported escape '\\{c}'")),
                None => break,
            },
            '\n' => break,
            c => out.push(c),
        }
    }
    Err("unfinished string".to_owned())
}

struct Parser<'t> {
    tokens: &'t [Token],
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, wanted: &Token) -> bool {
        let found = self.tokens.first() == Some(wanted);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn symbol(&mut self, symbol: &'static str) -> bool {
        self.take(&Token::Symbol(symbol))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.first(), Some(Token::Name(name)) if name == word);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.clone())
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), String> {
        if self.symbol(symbol) {
            return Ok(());
        }
        Err(match self.tokens.first() {
            Some(token) => format!("expected '{symbol}' before {}", token.shown()),
            None => format!("expected '{symbol}' at the end"),
        })
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH { Err("nested too deeply".to_owned()) } else { Ok(()) }
    }

    fn or(&mut self) -> Parsed {
        self.deeper()?;
        let mut left = self.and()?;
        while self.word("or") {
            left = Expr::Or(left.into(), self.and()?.into());
            self.deeper()?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        while self.word("and") {
            left = Expr::And(left.into(), self.comparison()?.into());
            self.deeper()?;
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.concatenation()?;
        loop {
            left = if self.symbol("==") {
                Expr::Equal(left.into(), self.concatenation()?.into())
            } else if self.symbol("~=") {
                Expr::Unequal(left.into(), self.concatenation()?.into())
            } else {
                return Ok(left);
            };
            self.deeper()?;
        }
    }

    /// `a .. b .. c` is `a .. (b .. c)`.
    fn concatenation(&mut self) -> Parsed {
        let left = self.not()?;
        if !self.symbol("..") {
            return Ok(left);
        }
        self.deeper()?;
        let right = self.concatenation()?;
        Ok(Expr::Concat(left.into(), right.into()))
    }

    fn not(&mut self) -> Parsed {
        if self.word("not") {
            self.deeper()?;
            return Ok(Expr::Not(self.not()?.into()));
        }
        let mut value = self.primary()?;
        while self.symbol(":") {
            value = self.method(value)?;
            self.deeper()?;
        }
        Ok(value)
    }

    fn primary(&mut self) -> Parsed {
        match self.next() {
            None => Err("an expression is missing".to_owned()),
            Some(Token::Text(text)) => Ok(Expr::Value(Value::Text(text.into()))),
            Some(Token::Number(number)) => Ok(Expr::Value(Value::Number(number))),
            Some(Token::Symbol("(")) => {
                let inner = self.or()?;
                self.expect(")")?;
                Ok(inner)
            }
            Some(Token::Name(name)) => match name.as_str() {
                "nil" => Ok(Expr::Value(Value::Nil)),
                "true" => Ok(Expr::Value(Value::Bool(true))),
                "false" => Ok(Expr::Value(Value::Bool(false))),
                "headers" => self.field(Source::Headers, &name),
                "query_params" => self.field(Source::Query, &name),
                "uri_captures" => self.field(Source::Captures, &name),
                _ => Err(format!(
                    "'{name}' is not supported; there are headers, query_params, uri_captures and their string methods {METHODS}"
                )),
            },
            Some(token) => Err(format!("unexpected {}", token.shown())),
        }
    }

    fn field(&mut self, source: Source, name: &str) -> Parsed {
        let key = if self.symbol(".") {
            match self.next() {
                Some(Token::Name(key)) => key,
                _ => return Err(format!("'{name}.' needs a name")),
            }
        } else if self.symbol("[") {
            let key = match self.next() {
                Some(Token::Text(key)) => key,
                Some(Token::Number(number)) => number.to_string(),
                _ => return Err(format!("'{name}[…]' needs a string or a number")),
            };
            self.expect("]")?;
            key
        } else {
            return Err(format!("'{name}' is a table; name one of its members, as in {name}.x"));
        };
        // Kong's table of headers ignores case and reads `_` as `-`.
        let key = match source {
            Source::Headers => key.to_ascii_lowercase().replace('_', "-"),
            Source::Query | Source::Captures => key,
        };
        Ok(Expr::Field(source, key))
    }

    fn method(&mut self, of: Expr) -> Parsed {
        let Some(Token::Name(name)) = self.next() else { return Err("':' needs a method".to_owned()) };
        self.expect("(")?;
        let mut arguments = Vec::new();
        while !self.symbol(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            let negative = self.symbol("-");
            match self.next() {
                Some(Token::Number(number)) => arguments.push(if negative { -number } else { number }),
                _ => return Err(format!("':{name}()' takes whole numbers only")),
            }
        }
        match (name.as_str(), arguments.as_slice()) {
            ("sub", [from]) => Ok(Expr::Sub(of.into(), *from, -1)),
            ("sub", [from, to]) => Ok(Expr::Sub(of.into(), *from, *to)),
            ("lower", []) => Ok(Expr::Lower(of.into())),
            ("upper", []) => Ok(Expr::Upper(of.into())),
            ("sub" | "lower" | "upper", _) => Err(format!("wrong number of arguments of ':{name}()'")),
            _ => Err(format!("the method ':{name}()' is not supported; there are {METHODS}")),
        }
    }
}
