use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::or_default;
use crate::consul::duration;

/// What happens to the keys a session holds when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionBehavior {
    #[default]
    Release,
    Delete,
}

/// Body of `session/create`. `node_checks: Some(vec![])` ties the session to no check at all (the server's default is `serfHealth`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SessionRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_checks: Option<Vec<String>>,
    pub behavior: SessionBehavior,
    /// Server default 15 s; at most 60 s.
    #[serde(with = "lock_delay", skip_serializing_if = "Option::is_none")]
    pub lock_delay: Option<Duration>,
    /// 10 s to 24 h; none: the session lives until destroyed or its node goes.
    #[serde(rename = "TTL", with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// A zero lock delay must be sent as `"0s"`, so it cannot share the meaning of "absent".
mod lock_delay {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::consul::duration;

    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration::format(value.unwrap_or_default()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        duration::parse(&text).map(Some).ok_or_else(|| D::Error::custom("invalid lock delay"))
    }
}

/// A session as `info`, `list` and `renew` answer it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Session {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub node: String,
    /// Nanoseconds.
    pub lock_delay: u64,
    pub behavior: SessionBehavior,
    #[serde(rename = "TTL", with = "duration::optional")]
    pub ttl: Option<Duration>,
    #[serde(deserialize_with = "or_default")]
    pub node_checks: Vec<String>,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCreated {
    #[serde(rename = "ID")]
    pub id: String,
}
