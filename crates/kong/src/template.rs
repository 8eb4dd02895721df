//! request-transformer's templates: text with `$(expression)` in it.
//!
//! Kong hands the inside to a Lua interpreter. This is the part of Lua that files use: `headers.x`, `query_params["q"]`,
//! `uri_captures.n` or `[1]`, strings, whole numbers, `nil`, `true`, `false`, `and`, `or`, `not`, `==`, `~=`, `..`, parentheses, and the
//! string methods `:sub()`, `:lower()`, `:upper()`. Everything else is refused when the file is loaded, by name.

mod parse;

use std::borrow::Cow;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(String),
    Expression(Expr),
}

/// Which part of the request a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Headers,
    Query,
    Captures,
}

#[derive(Clone, Debug, PartialEq)]
enum Expr {
    Value(Value<'static>),
    Field(Source, String),
    Or(Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Equal(Box<Expr>, Box<Expr>),
    Unequal(Box<Expr>, Box<Expr>),
    Concat(Box<Expr>, Box<Expr>),
    Sub(Box<Expr>, i64, i64),
    Lower(Box<Expr>),
    Upper(Box<Expr>),
}

#[derive(Clone, Debug, PartialEq)]
enum Value<'v> {
    Nil,
    Bool(bool),
    Number(i64),
    Text(Cow<'v, str>),
}

/// What templates see of a request.
pub trait Lookup {
    /// A header's first value; the name is lower-case, with `-`.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// A query parameter's first value, decoded.
    fn query(&self, name: &str) -> Option<Cow<'_, str>>;
    /// A group of the route's regular expression, by name or number.
    fn capture(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// Lua stops with an error here, and Kong answers 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// `x .. y` where one is neither text nor a number.
    #[error("attempt to concatenate a nil or boolean value")]
    Concat,
    /// `x:sub()` where x is no text.
    #[error("attempt to call a method of a value that is no string")]
    Method,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// An expression that is none or is beyond the supported part of Lua; the message quotes it.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("$(") {
            let (before, from) = rest.split_at(at);
            plain.push_str(before);
            let Some(end) = parse::balanced(&from[1..]) else {
                // Lua's own templates leave an unbalanced `$(` as it is.
                plain.push_str("$(");
                rest = &from[2..];
                continue;
            };
            let inside = &from[2..end];
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            let expression = parse::expression(inside).map_err(|why| {
                format!("cannot evaluate the template expression '{}': {why}", inside.trim())
            })?;
            pieces.push(Piece::Expression(expression));
            rest = &from[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces })
    }

    /// The text, when there is no expression in it.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for one request.
    ///
    /// # Errors
    /// Where Lua would stop.
    pub fn render(&self, request: &impl Lookup) -> Result<String, RenderError> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Expression(expression) => match expression.value(request)? {
                    Value::Nil | Value::Bool(false) => {}
                    Value::Bool(true) => out.push_str("true"),
                    Value::Number(number) => out.push_str(&number.to_string()),
                    Value::Text(text) => out.push_str(&text),
                },
            }
        }
        Ok(out)
    }
}

impl Expr {
    fn value<'v>(&'v self, request: &'v impl Lookup) -> Result<Value<'v>, RenderError> {
        Ok(match self {
            Expr::Value(value) => value.clone(),
            Expr::Field(source, name) => {
                let found = match source {
                    Source::Headers => request.header(name),
                    Source::Query => request.query(name),
                    Source::Captures => request.capture(name),
                };
                found.map_or(Value::Nil, Value::Text)
            }
            Expr::Or(left, right) => match left.value(request)? {
                value if value.holds() => value,
                _ => right.value(request)?,
            },
            Expr::And(left, right) => match left.value(request)? {
                value if value.holds() => right.value(request)?,
                value => value,
            },
            Expr::Not(inner) => Value::Bool(!inner.value(request)?.holds()),
            Expr::Equal(left, right) => Value::Bool(left.value(request)? == right.value(request)?),
            Expr::Unequal(left, right) => Value::Bool(left.value(request)? != right.value(request)?),
            Expr::Concat(left, right) => {
                let mut text = left.value(request)?.concatenated()?.into_owned();
                text.push_str(&right.value(request)?.concatenated()?);
                Value::Text(text.into())
            }
            Expr::Sub(inner, from, to) => {
                let text = inner.value(request)?.text()?;
                Value::Text(sub(&text, *from, *to).into_owned().into())
            }
            Expr::Lower(inner) => Value::Text(inner.value(request)?.text()?.to_ascii_lowercase().into()),
            Expr::Upper(inner) => Value::Text(inner.value(request)?.text()?.to_ascii_uppercase().into()),
        })
    }
}

impl<'v> Value<'v> {
    /// Everything but nil and false is true in Lua.
    fn holds(&self) -> bool {
        !matches!(self, Value::Nil | Value::Bool(false))
    }

    fn concatenated(self) -> Result<Cow<'v, str>, RenderError> {
        match self {
            Value::Text(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string().into()),
            Value::Nil | Value::Bool(_) => Err(RenderError::Concat),
        }
    }

    fn text(self) -> Result<Cow<'v, str>, RenderError> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err(RenderError::Method),
        }
    }
}

/// Lua's `string.sub`: bytes, from 1, negative ones from the end, both ends included.
fn sub(text: &str, from: i64, to: i64) -> Cow<'_, str> {
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(length + 1) } else { at };
    let (from, to) = (place(from).max(1), place(to).min(length));
    if from > to {
        return Cow::Borrowed("");
    }
    let range = usize::try_from(from - 1).unwrap_or(0)..usize::try_from(to).unwrap_or(0);
    String::from_utf8_lossy(text.as_bytes().get(range).unwrap_or_default())
}

#[cfg(test)]
mod tests;
