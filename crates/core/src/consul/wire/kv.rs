use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::or_default;

/// A key with its value. `value` is the plain bytes; base64 is only on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KvPair {
    pub lock_index: u64,
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// Free for the writer; Plinth's configuration keeps the revision here.
    pub flags: u64,
    #[serde(with = "super::base64_bytes")]
    pub value: Bytes,
    /// The session holding the lock, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub create_index: u64,
    /// Given to `cas` writes.
    pub modify_index: u64,
}
