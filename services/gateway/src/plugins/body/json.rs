//! A JSON object whose members are changed one by one; the others stay byte for byte.

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

#[derive(Clone, Debug, Default)]
pub(in crate::plugins) struct Object(IndexMap<String, Box<RawValue>>);

impl Object {
    /// Nothing but an object will do.
    pub fn parse(bytes: &[u8]) -> Option<Object> {
        serde_json::from_slice(bytes).ok().map(Object)
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    /// Lua's idea of a value that is there: `false` is not.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.get() != "false")
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.0.shift_remove(name).is_some()
    }

    pub fn set(&mut self, name: &str, value: &Value) {
        if let Ok(value) = to_raw_value(value) {
            self.0.insert(name.to_owned(), value);
        }
    }

    pub fn rename(&mut self, old: &str, new: &str) -> bool {
        if old == new {
            return false;
        }
        let Some(value) = self.0.shift_remove(old) else { return false };
        self.0.insert(new.to_owned(), value);
        true
    }

    /// To the end of a list; a string becomes the first of two; anything else gives way to a list of one.
    pub fn append(&mut self, name: &str, value: Value) {
        let list = match self.get(name) {
            Some(Value::Array(mut list)) => {
                list.push(value);
                list
            }
            Some(text @ Value::String(_)) => vec![text, value],
            _ => vec![value],
        };
        self.set(name, &Value::Array(list));
    }

    pub fn bytes(&self) -> Bytes {
        serde_json::to_vec(&self.0).map(Bytes::from).unwrap_or_default()
    }

    pub fn value(&self) -> Value {
        serde_json::to_value(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_that_are_not_touched_stay_as_they_are() {
        let mut object =
            Object::parse(br#"{"z": 1.50, "a": {"deep" : [1,2]}, "n": 123456789012345678901, "f": false}"#)
                .unwrap();
        object.set("new", &json!("x"));
        assert!(object.rename("z", "y") && object.remove("f") && !object.has("f"));
        assert_eq!(
            object.bytes(),
            &br#"{"a":{"deep" : [1,2]},"n":123456789012345678901,"new":"x","y":1.50}"#[..]
        );
    }

    #[test]
    fn values_are_appended_as_in_kong() {
        let mut object = Object::parse(br#"{"list":[1],"text":"a","other":5}"#).unwrap();
        for name in ["list", "text", "other", "absent"] {
            object.append(name, json!("x"));
        }
        assert_eq!(
            object.value(),
            json!({"list": [1, "x"], "text": ["a", "x"], "other": ["x"], "absent": ["x"]})
        );
    }

    #[test]
    fn only_objects_are_read() {
        for text in ["[1]", "1", "", "{", "null", "{\"a\":1} x"] {
            assert!(Object::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(object) = Object::parse(&bytes) {
                prop_assert!(Object::parse(&object.bytes()).is_some());
            }
        }
    }
}
