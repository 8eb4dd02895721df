//! The CloudEvents 1.0 envelope in its JSON format (structured mode, `application/cloudevents+json`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// Media type of one event in structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// One event. `id` is unique per `source`, so consumers drop repeats by that pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudEvent {
    specversion: SpecVersion,
    pub id: String,
    /// Who says so, a URI reference: `/plinth/config-service`.
    pub source: String,
    /// What happened, reverse-DNS and versioned: `dev.plinth.config.changed.v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it happened to, within `source`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub subject: Option<String>,
    pub time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dataschema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Value>,
    /// Extension attributes, such as `traceparent`: lower-case letters and digits only.
    #[serde(flatten)]
    pub extensions: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum SpecVersion {
    #[serde(rename = "1.0")]
    V1,
}

impl CloudEvent {
    /// An event with JSON data, a fresh time-ordered id and no extensions.
    pub fn new(source: impl Into<String>, kind: impl Into<String>, time: Timestamp, data: Value) -> Self {
        Self {
            specversion: SpecVersion::V1,
            id: uuid::Uuid::now_v7().to_string(),
            source: source.into(),
            kind: kind.into(),
            subject: None,
            time,
            datacontenttype: Some("application/json".into()),
            dataschema: None,
            data: Some(data),
            extensions: BTreeMap::new(),
        }
    }

    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    pub fn with_extension(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// Reads and checks one event.
    ///
    /// # Errors
    /// [`Error::Json`] when it is no JSON object of this shape (a missing attribute, another `specversion`),
    /// [`Error::InvalidEvent`] when an attribute breaks the specification's rules.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let event: Self = serde_json::from_slice(json)?;
        event.check()?;
        Ok(event)
    }

    /// The event as JSON text, checked: what is not a valid event never leaves the process.
    ///
    /// # Errors
    /// As [`CloudEvent::parse`].
    pub fn to_json(&self) -> Result<String, Error> {
        self.check()?;
        Ok(serde_json::to_string(self)?)
    }

    fn check(&self) -> Result<(), Error> {
        for (name, value) in [("id", &self.id), ("source", &self.source), ("type", &self.kind)] {
            if value.is_empty() {
                return Err(Error::InvalidEvent(format!("{name} is empty")));
            }
        }
        if self.subject.as_deref() == Some("") {
            return Err(Error::InvalidEvent("subject is present but empty".into()));
        }
        for (name, value) in &self.extensions {
            let spelled =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if !spelled {
                return Err(Error::InvalidEvent(format!(
                    "extension name {name:?} has characters other than a-z and 0-9"
                )));
            }
            if matches!(value, Value::Array(_) | Value::Object(_) | Value::Null) {
                return Err(Error::InvalidEvent(format!(
                    "extension {name:?} is no string, number or boolean"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> CloudEvent {
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        CloudEvent::new(
            "/plinth/config-service",
            "dev.plinth.config.changed.v1",
            time,
            json!({"revision": 3}),
        )
        .with_subject("shop/prod/db.host")
    }

    #[test]
    fn has_the_attributes_of_the_specification() {
        let event = event().with_extension("traceparent", "00-abc-def-01");
        let value: Value = serde_json::from_str(&event.to_json().unwrap()).unwrap();
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["type"], "dev.plinth.config.changed.v1");
        assert_eq!(value["source"], "/plinth/config-service");
        assert_eq!(value["subject"], "shop/prod/db.host");
        assert_eq!(value["time"], "2026-01-02T03:04:05Z");
        assert_eq!(value["datacontenttype"], "application/json");
        assert_eq!(value["data"]["revision"], 3);
        assert_eq!(value["traceparent"], "00-abc-def-01");
    }

    #[test]
    fn survives_a_round_trip() {
        let event = event().with_extension("partitionkey", "shop");
        assert_eq!(CloudEvent::parse(event.to_json().unwrap().as_bytes()).unwrap(), event);
    }

    #[test]
    fn ids_differ() {
        assert_ne!(event().id, event().id);
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        assert!(matches!(event().with_extension("Upper", "x").to_json(), Err(Error::InvalidEvent(_))));
        assert!(matches!(event().with_extension("list", json!([1])).to_json(), Err(Error::InvalidEvent(_))));
        assert!(matches!(event().with_subject("").to_json(), Err(Error::InvalidEvent(_))));
        let other = event().to_json().unwrap().replace("\"1.0\"", "\"0.3\"");
        assert!(matches!(CloudEvent::parse(other.as_bytes()), Err(Error::Json(_))));
        let anonymous = event().to_json().unwrap().replace("\"source\":\"/plinth/config-service\",", "");
        assert!(matches!(CloudEvent::parse(anonymous.as_bytes()), Err(Error::Json(_))));
    }
}
