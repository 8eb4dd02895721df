//! The generic tree a file is read into, before any schema looks at it.
//!
//! YAML and JSON both end here, so that every later step (schemas, report, faults) has one input. The tree keeps what a
//! typed reader would lose: whether a scalar was a string or a number, an explicit `null`, and the order of keys.

use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use serde_json::{Number, Value};

/// A mapping with its keys in file order.
pub type Map = IndexMap<String, Node>;

/// One value of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Node {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Map),
}

impl Node {
    pub fn is_null(&self) -> bool {
        matches!(self, Node::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Node::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Whole numbers; `3.0` counts, as it does in Kong where every number is a double.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Node::Int(value) => Some(*value),
            // 2^53: beyond it a double no longer holds every integer.
            Node::Float(value) if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 => {
                Some(*value as i64)
            }
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Node::Int(value) => Some(*value as f64),
            Node::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_seq(&self) -> Option<&[Node]> {
        match self {
            Node::Seq(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Node::Map(map) => Some(map),
            _ => None,
        }
    }

    /// A short rendering for messages: strings bare, everything else as JSON.
    pub fn display(&self) -> String {
        match self {
            Node::Str(text) => text.clone(),
            other => other.clone().into_json().to_string(),
        }
    }

    /// The tree as JSON text; equal trees have equal texts.
    pub(crate) fn text(&self) -> String {
        // Every node has a JSON form; what is no number of JSON becomes null there.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same tree as a JSON value. `.inf` and `.nan` have no JSON form and become null; schemas refuse them before.
    pub fn into_json(self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(value),
            Node::Int(value) => Value::Number(value.into()),
            Node::Float(value) => Number::from_f64(value).map_or(Value::Null, Value::Number),
            Node::Str(text) => Value::String(text),
            Node::Seq(items) => Value::Array(items.into_iter().map(Node::into_json).collect()),
            Node::Map(map) => Value::Object(map.into_iter().map(|(k, v)| (k, v.into_json())).collect()),
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Int(value) => serializer.serialize_i64(*value),
            Node::Float(value) => serializer.serialize_f64(*value),
            Node::Str(text) => serializer.serialize_str(text),
            Node::Seq(items) => serializer.collect_seq(items),
            Node::Map(map) => serializer.collect_map(map),
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(value),
            Value::Number(number) => match number.as_i64() {
                Some(value) => Node::Int(value),
                None => Node::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Node::Str(text),
            Value::Array(items) => Node::Seq(items.into_iter().map(Node::from).collect()),
            Value::Object(map) => Node::Map(map.into_iter().map(|(k, v)| (k, Node::from(v))).collect()),
        }
    }
}
