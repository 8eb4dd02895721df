//! The fields of one object, taken one by one, with Go's texts for those that are of another type.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Decoded, Malformed, Place, kind_of};
use crate::duration;
use crate::state::model::Pairs;

/// The fields of one object, taken one by one.
pub struct Fields {
    map: Map<String, Value>,
    pub(super) place: Place,
}

impl Fields {
    pub fn new(value: Value) -> Decoded<Fields> {
        Fields::at(value, Place::default())
    }

    pub fn at(value: Value, place: Place) -> Decoded<Fields> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => {
                let whole = if place.whole.is_empty() { "value of type object" } else { place.whole };
                let kind = kind_of(&other, "");
                return Err(Malformed(format!("json: cannot unmarshal {kind} into Go {whole}")));
            }
        };
        Ok(Fields { map, place })
    }

    /// Whether a field is there at all, be it `null`.
    pub fn has(&self, name: &str) -> bool {
        self.map.keys().any(|key| key.eq_ignore_ascii_case(name))
    }

    /// Takes all spellings of a field; the last that is not null counts.
    pub fn take(&mut self, names: &[&str]) -> Option<Value> {
        let keys: Vec<String> =
            self.map.keys().filter(|k| names.iter().any(|n| k.eq_ignore_ascii_case(n))).cloned().collect();
        let mut found = None;
        for key in keys {
            if let Some(value) = self.map.remove(&key).filter(|v| !v.is_null()) {
                found = Some(value);
            }
        }
        found
    }

    pub fn ignore(&mut self, names: &[&str]) {
        let _ = self.take(names);
    }

    pub fn put_back(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Unknown fields are an error.
    pub fn finish(self) -> Decoded<()> {
        match self.map.keys().next() {
            Some(key) => Err(Malformed(format!("json: unknown field {key:?}"))),
            None => Ok(()),
        }
    }

    pub fn text(&mut self, names: &[&str]) -> Decoded<String> {
        match self.take(names) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.place.mismatch(&other, names[0], "string")),
        }
    }

    /// Text that names something: the store joins names with NUL, so none may hold one.
    pub fn name(&mut self, names: &[&str]) -> Decoded<String> {
        let text = self.text(names)?;
        if text.contains('\0') {
            return Err(Malformed(format!("{} must not contain NUL", names[0])));
        }
        Ok(text)
    }

    pub fn flag(&mut self, names: &[&str]) -> Decoded<bool> {
        match self.take(names) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.place.mismatch(&other, names[0], "bool")),
        }
    }

    pub fn number(&mut self, names: &[&str]) -> Decoded<Option<i64>> {
        match self.take(names) {
            None => Ok(None),
            Some(value) => {
                value.as_i64().map(Some).ok_or_else(|| self.place.mismatch(&value, names[0], "int"))
            }
        }
    }

    pub fn unsigned(&mut self, names: &[&str]) -> Decoded<u64> {
        match self.take(names) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| self.place.mismatch(&value, names[0], "uint64")),
        }
    }

    /// A time that is given must not be an empty text.
    pub fn refuse_empty(&self, names: &[&str]) -> Decoded<()> {
        let empty = |(key, value): (&String, &Value)| {
            value.as_str() == Some("") && names.iter().any(|name| key.eq_ignore_ascii_case(name))
        };
        match self.map.iter().any(empty) {
            true => Err(Malformed("time: invalid duration \"\"".to_owned())),
            false => Ok(()),
        }
    }

    /// Go text or nanoseconds; a negative time counts as none, and what is neither text nor number is not looked at.
    pub fn duration(&mut self, names: &[&str]) -> Decoded<Option<Duration>> {
        match self.take(names) {
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => match text.strip_prefix('-').map(duration::parse) {
                Some(Ok(_)) => Ok(Some(Duration::ZERO)),
                _ => duration::parse(&text).map(Some).map_err(Malformed),
            },
            Some(Value::Number(number)) => {
                Ok(number.as_f64().map(|nanos| Duration::from_nanos(nanos.max(0.0) as u64)))
            }
            _ => Ok(None),
        }
    }

    /// The time between two things: none at all is no time, and a negative one is zero, which whoever uses it refuses.
    pub fn period(&mut self, names: &[&str]) -> Decoded<Option<Duration>> {
        let negative = self.map.iter().any(|(key, value)| {
            let below =
                value.as_f64().is_some_and(|n| n < 0.0) || value.as_str().is_some_and(|t| t.starts_with('-'));
            below && names.iter().any(|name| key.eq_ignore_ascii_case(name))
        });
        Ok(self.duration(names)?.filter(|time| negative || !time.is_zero()))
    }

    pub fn list(&mut self, names: &[&str]) -> Decoded<Option<Vec<Value>>> {
        self.list_of(names, "[]interface {}")
    }

    /// `kind` is Go's name of the list's type.
    pub fn list_of(&mut self, names: &[&str], kind: &str) -> Decoded<Option<Vec<Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(self.place.mismatch(&other, names[0], kind)),
        }
    }

    pub fn texts(&mut self, names: &[&str]) -> Decoded<Option<Vec<String>>> {
        self.texts_of(names, "string")
    }

    /// `kind` is Go's name of the items' type.
    pub fn texts_of(&mut self, names: &[&str], kind: &str) -> Decoded<Option<Vec<String>>> {
        let Some(values) = self.list_of(names, &format!("[]{kind}"))? else { return Ok(None) };
        let place = self.place;
        values.into_iter().map(|v| text_of(v, names[0], kind, place)).collect::<Decoded<Vec<_>>>().map(Some)
    }

    pub fn pairs(&mut self, names: &[&str]) -> Decoded<Pairs> {
        let Some(value) = self.take(names) else { return Ok(None) };
        let place = self.place;
        let Value::Object(map) = value else {
            return Err(place.mismatch(&value, names[0], "map[string]string"));
        };
        let pair = |(k, v)| Ok((k, text_of(v, names[0], "string", place)?));
        map.into_iter().map(pair).collect::<Decoded<_>>().map(Some)
    }

    /// The fields of an object inside; none when it is absent.
    pub fn nested(&mut self, names: &[&str]) -> Decoded<Fields> {
        Ok(Fields { map: self.object(names)?.unwrap_or_default(), place: Place::default() })
    }

    pub fn object(&mut self, names: &[&str]) -> Decoded<Option<Map<String, Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.place.mismatch(&other, names[0], "object")),
        }
    }
}

pub(super) fn text_of(value: Value, field: &str, kind: &str, place: Place) -> Decoded<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(place.mismatch(&other, field, kind)),
    }
}
