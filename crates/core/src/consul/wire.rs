//! Consul's JSON as it is on the wire: PascalCase with `ID` in capitals, `null` for empty lists and maps.
//!
//! Reading is tolerant (unknown fields ignored, `null` is the default); writing leaves out what is empty, because Consul
//! refuses unknown or out-of-place fields in registrations and transactions.

mod agent;
mod catalog;
mod connect;
mod kv;
mod session;
mod txn;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

pub use agent::{AgentCheckDefinition, AgentSelf, AgentServiceRegistration, CheckUpdate};
pub use catalog::{
    AgentService, CatalogDeregistration, CatalogNode, CatalogRegistration, CatalogService, CheckDefinition,
    HealthCheck, Node, ServiceAddress, ServiceEntry, Weights,
};
pub use connect::{AuthorizeRequest, AuthorizeResponse, CaRoot, CaRoots, LeafCertificate};
pub use kv::KvPair;
pub use session::{Session, SessionBehavior, SessionCreated, SessionRequest};
pub use txn::{
    CheckOp, CheckVerb, KvOp, KvVerb, NodeOp, NodeVerb, ServiceOp, ServiceVerb, TxnAnswer, TxnOp, TxnResult,
};

pub type Meta = BTreeMap<String, String>;

/// `null` reads as the default.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

/// Bytes as standard base64; `null` is empty.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_empty() {
            return serializer.serialize_none();
        }
        serializer.serialize_str(&STANDARD.encode(value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
