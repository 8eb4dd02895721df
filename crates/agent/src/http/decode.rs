//! Request bodies as Go's decoder reads them: keys without regard to case, `null` as absent, durations as text
//! or nanoseconds, unknown fields refused where Consul refuses them.

use serde_json::Value;

mod check;
mod fields;
mod service;

pub use check::{AgentCheck, Form, Times, agent_check, check};
pub use fields::Fields;
pub use service::{node, service, service_fields};

/// What was wrong, as Go says it (without the prefix an endpoint adds).
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

type Decoded<T> = Result<T, Malformed>;

/// What a value is called in errors. Numbers are given where a number was wanted, as Go does.
pub fn kind_of(value: &Value, wanted: &str) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if wanted.starts_with("int") || wanted.starts_with("uint") => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Where fields stand, for errors: Go names its own types in them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The struct that has the fields.
    pub owner: &'static str,
    /// Before the field's name, with a dot at its end.
    pub path: &'static str,
    /// Instead of the field's name, where Go has lost it.
    pub instead: &'static str,
    /// What should have been an object: `value of type structs.RegisterRequest`.
    pub whole: &'static str,
}

impl Place {
    pub fn mismatch(self, value: &Value, field: &str, kind: &str) -> Malformed {
        let Place { owner, path, instead, .. } = self;
        let field = if instead.is_empty() { field } else { instead };
        Malformed(format!(
            "json: cannot unmarshal {} into Go struct field {owner}.{path}{field} of type {kind}",
            kind_of(value, kind)
        ))
    }
}

/// Parses a body.
pub fn json(body: &[u8]) -> Decoded<Value> {
    super::go_json::parse(body).map_err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_nul() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let nul = |result: Decoded<()>| result.unwrap_err().0.contains("NUL");
        for text in [r#"{"Service":"a\u0000b"}"#, r#"{"Service":"a","ID":"\u0000"}"#] {
            assert!(nul(service(json(text), Place::default()).map(drop)), "{text}");
        }
        for text in [
            r#"{"Node":"a\u0000","CheckID":"c"}"#,
            r#"{"Node":"a","CheckID":"c\u0000"}"#,
            r#"{"Node":"a","CheckID":"c","ServiceID":"s\u0000"}"#,
        ] {
            assert!(nul(check(json(text), Times::Either).map(drop)), "{text}");
        }
        assert!(nul(node(json(r#"{"Node":"a\u0000"}"#), "dc1").map(drop)));
        assert!(nul(agent_check(json(r#"{"Name":"a\u0000","TTL":"10s"}"#), Form::Alone).map(drop)));
        let output = check(json(r#"{"Node":"a","CheckID":"c","Output":"\u0000"}"#), Times::Short).unwrap();
        assert_eq!(output.output, "\0", "a check may say what it likes");
    }
}
