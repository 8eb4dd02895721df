//! An entry as it is given: what the body of `PUT /v1/config` says.

use serde_json::{Map, Value};

use crate::schema::{self, Faults};
use crate::state::config::ConfigEntry;

/// Kind first: it says what else there may be.
pub(super) fn decode_entry(mut given: Map<String, Value>) -> Result<ConfigEntry, String> {
    let mut take = |name: &str| {
        let key = given.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
        key.and_then(|key| given.remove(&key))
    };
    let kind = match take("Kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err("Kind value in payload is not a string".to_owned()),
        None => return Err("Payload does not contain a kind/Kind key at the top level".to_owned()),
    };
    let name = take("Name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    for ignored in ["CreateIndex", "ModifyIndex"] {
        take(ignored);
    }
    let fields = schema::of(&kind).ok_or_else(|| format!("invalid config entry kind: {kind}"))?;
    let mut faults = Faults::default();
    let fields = schema::read(given, fields, "", &mut faults);
    if !faults.values.is_empty() {
        let list: Vec<String> = faults.values.iter().map(|fault| format!("* {fault}")).collect();
        return Err(format!("{} error(s) decoding:\n\n{}", list.len(), list.join("\n")));
    }
    if !faults.keys.is_empty() {
        let list: Vec<String> = faults.keys.iter().map(|key| unknown_key(key)).collect();
        return Err(crate::http::several(&list));
    }
    Ok(ConfigEntry { kind, name, fields, create_index: 0, modify_index: 0 })
}

fn unknown_key(key: &str) -> String {
    let why = if key.to_lowercase().ends_with("namespace") {
        ", namespaces are a consul enterprise feature"
    } else {
        ""
    };
    format!("invalid config key {key:?}{why}")
}
