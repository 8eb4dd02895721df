//! `name=value` pairs joined by `&`: queries and form bodies.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Pairs in their order. Those that are not changed keep their spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plugins) struct Pairs(Vec<Pair>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    name: String,
    /// `None` without an equals sign.
    value: Option<String>,
    /// As it was written.
    written: Option<String>,
}

fn decode(text: &str) -> String {
    let spaced = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

impl Pairs {
    pub fn parse(text: &str) -> Pairs {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name, Some(decode(value))),
                None => (pair, None),
            };
            Pair { name: decode(name), value, written: Some(pair.to_owned()) }
        });
        Pairs(pairs.collect())
    }

    /// All values of a name.
    pub fn values<'p>(&'p self, name: &'p str) -> impl Iterator<Item = Option<&'p str>> {
        self.0.iter().filter(move |pair| pair.name == name).map(|pair| pair.value.as_deref())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pair| pair.name == name)
    }

    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|pair| pair.name != name);
        self.0.len() < before
    }

    /// One value instead of all there were, where the first of them stood.
    pub fn set(&mut self, name: &str, value: String) {
        let at = self.0.iter().position(|pair| pair.name == name).unwrap_or(self.0.len());
        self.remove(name);
        self.0
            .insert(at.min(self.0.len()), Pair { name: name.to_owned(), value: Some(value), written: None });
    }

    pub fn append(&mut self, name: &str, value: String) {
        self.0.push(Pair { name: name.to_owned(), value: Some(value), written: None });
    }

    /// The values go by the new name, which loses its own.
    pub fn rename(&mut self, old: &str, new: &str) -> bool {
        if old == new || !self.has(old) {
            return false;
        }
        self.remove(new);
        for pair in self.0.iter_mut().filter(|pair| pair.name == old) {
            new.clone_into(&mut pair.name);
            pair.written = None;
        }
        true
    }

    pub fn extend(&mut self, other: Pairs) {
        self.0.extend(other.0);
    }

    /// Names and values, sorted by both.
    pub fn into_sorted(self) -> Vec<(String, Option<String>)> {
        let mut pairs: Vec<_> = self.0.into_iter().map(|pair| (pair.name, pair.value)).collect();
        pairs.sort();
        pairs
    }

    pub fn encode(&self) -> String {
        let mut out = String::new();
        for pair in &self.0 {
            if !out.is_empty() {
                out.push('&');
            }
            if let Some(written) = &pair.written {
                out.push_str(written);
                continue;
            }
            out.extend(utf8_percent_encode(&pair.name, ESCAPED));
            if let Some(value) = &pair.value {
                out.push('=');
                out.extend(utf8_percent_encode(value, ESCAPED));
            }
        }
        out
    }

    /// As Kong's tables: several values are a list, one without an equals sign is true.
    pub fn value(&self) -> Value {
        let mut map = Map::new();
        for pair in &self.0 {
            let value = pair.value.clone().map_or(Value::Bool(true), Value::String);
            match map.get_mut(&pair.name) {
                None => {
                    map.insert(pair.name.clone(), value);
                }
                Some(Value::Array(values)) => values.push(value),
                Some(one) => *one = Value::Array(vec![one.take(), value]),
            }
        }
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_keep_their_order_and_spelling() {
        let mut pairs = Pairs::parse("a=1&b=%7e+x&&a=2&flag&c=");
        assert_eq!(pairs.values("a").collect::<Vec<_>>(), [Some("1"), Some("2")]);
        assert_eq!(pairs.values("b").collect::<Vec<_>>(), [Some("~ x")]);
        assert_eq!(pairs.values("flag").collect::<Vec<_>>(), [None]);
        assert_eq!(pairs.value(), serde_json::json!({"a": ["1", "2"], "b": "~ x", "flag": true, "c": ""}));
        pairs.set("a", "ü&".to_owned());
        assert!(pairs.rename("flag", "new name") && !pairs.rename("absent", "a"));
        assert_eq!(pairs.encode(), "a=%C3%BC%26&b=%7e+x&new%20name&c=");
        assert!(pairs.remove("b") && !pairs.remove("b"));
        pairs.append("z", "1".to_owned());
        assert_eq!(pairs.encode(), "a=%C3%BC%26&new%20name&c=&z=1");
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_again(text in "[a-z=&%+]{0,30}", name in "\\PC{1,8}", value in "\\PC{0,12}") {
            let mut pairs = Pairs::parse(&text);
            pairs.set(&name, value.clone());
            let again = Pairs::parse(&pairs.encode());
            prop_assert_eq!(again.values(&name).collect::<Vec<_>>(), [Some(value.as_str())]);
        }

        #[test]
        fn unchanged_pairs_are_written_as_they_were(text in "[a-z=%+ü]{1,10}(&[a-z=%+]{1,10}){0,5}") {
            prop_assert_eq!(Pairs::parse(&text).encode(), text);
        }
    }
}
