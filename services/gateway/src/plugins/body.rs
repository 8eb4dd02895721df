//! Bodies as plugins read and change them: forms, JSON objects, multipart. What is not changed stays as it was written.

mod json;
mod multipart;
mod pairs;

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

pub(super) use json::Object;
pub(super) use multipart::Multipart;
pub(super) use pairs::Pairs;

/// What a content type says a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Form,
    Multipart,
}

impl Kind {
    /// As Kong tells them: the name anywhere in the header, any case.
    pub fn of(headers: &HeaderMap) -> Option<Kind> {
        let kind = headers.get(header::CONTENT_TYPE)?.as_bytes().to_ascii_lowercase();
        let names = |name: &[u8]| kind.windows(name.len()).any(|part| part == name);
        if names(b"application/json") {
            Some(Kind::Json)
        } else if names(b"multipart/form-data") {
            Some(Kind::Multipart)
        } else if names(b"application/x-www-form-urlencoded") {
            Some(Kind::Form)
        } else {
            None
        }
    }
}

/// A body that could be parsed.
#[derive(Debug)]
pub(super) enum Parsed {
    Json(Object),
    Form(Pairs),
    Multipart(Multipart),
}

/// A field's values in a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    Absent,
    Text(String),
    /// Several, or a list or an object.
    Several,
}

impl Parsed {
    /// `None` for other kinds, and for what does not parse.
    pub fn of(headers: &HeaderMap, body: &Bytes) -> Option<Parsed> {
        match Kind::of(headers)? {
            Kind::Json => Object::parse(body).map(Parsed::Json),
            Kind::Form => std::str::from_utf8(body).ok().map(|text| Parsed::Form(Pairs::parse(text))),
            Kind::Multipart => {
                let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
                Multipart::parse(kind, body).map(Parsed::Multipart)
            }
        }
    }

    pub fn field(&self, name: &str) -> Field {
        match self {
            Parsed::Json(object) => match object.get(name) {
                Some(Value::String(text)) => Field::Text(text),
                Some(Value::Array(_) | Value::Object(_)) => Field::Several,
                _ => Field::Absent,
            },
            Parsed::Form(pairs) => {
                let mut values = pairs.values(name);
                match (values.next(), values.next()) {
                    (_, Some(_)) => Field::Several,
                    (Some(Some(text)), None) => Field::Text(text.to_owned()),
                    _ => Field::Absent,
                }
            }
            Parsed::Multipart(parts) => parts
                .get(name)
                .map_or(Field::Absent, |value| Field::Text(String::from_utf8_lossy(value).into_owned())),
        }
    }

    pub fn remove(&mut self, name: &str) -> bool {
        match self {
            Parsed::Json(object) => object.remove(name),
            Parsed::Form(pairs) => pairs.remove(name),
            Parsed::Multipart(parts) => parts.remove(name),
        }
    }

    pub fn bytes(&self) -> Bytes {
        match self {
            Parsed::Json(object) => object.bytes(),
            Parsed::Form(pairs) => Bytes::from(pairs.encode()),
            Parsed::Multipart(parts) => parts.bytes(),
        }
    }

    /// As a JSON document, for request-termination's echo.
    pub fn value(&self) -> Value {
        match self {
            Parsed::Json(object) => object.value(),
            Parsed::Form(pairs) => pairs.value(),
            Parsed::Multipart(parts) => parts.value(),
        }
    }
}
