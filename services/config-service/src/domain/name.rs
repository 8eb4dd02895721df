//! How items are named, in URLs, in Consul's KV and in token scopes alike.

use std::fmt;
use std::sync::Arc;

/// All values live below this prefix of Consul's KV, as `plinth/config/<namespace>/<environment>/<key>`.
pub const KV_PREFIX: &str = "plinth/config/";
/// Longest key, in bytes.
pub const MAX_KEY: usize = 256;
/// Longest namespace and longest environment, in bytes.
pub const MAX_SEGMENT: usize = 63;

/// Why a name is no name; the text is fit for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameFault(pub &'static str);

const SEGMENT: NameFault =
    NameFault("must be 1 to 63 characters of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit");
const KEY: NameFault = NameFault(
    "must be 1 to 256 characters: parts joined by '/', each of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter, digit or '_'",
);

/// A namespace in one environment, such as `shop/prod`: the unit of listing, watching and rights.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    namespace: Arc<str>,
    environment: Arc<str>,
}

/// An item's name within its scope, such as `database/host`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// An item's full name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    pub scope: Scope,
    pub key: Key,
}

impl Scope {
    /// # Errors
    /// A fault per bad segment: `(field, fault)`.
    pub fn parse(namespace: &str, environment: &str) -> Result<Self, Vec<(&'static str, NameFault)>> {
        let faults: Vec<_> = [("namespace", namespace), ("environment", environment)]
            .into_iter()
            .filter(|(_, text)| !is_segment(text))
            .map(|(field, _)| (field, SEGMENT))
            .collect();
        if faults.is_empty() {
            Ok(Self { namespace: namespace.into(), environment: environment.into() })
        } else {
            Err(faults)
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn environment(&self) -> &str {
        &self.environment
    }
}

impl fmt::Display for Scope {
    /// As in token scopes: `shop/prod`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.environment)
    }
}

impl Key {
    /// # Errors
    /// [`NameFault`]
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        let spelled = !text.is_empty() && text.len() <= MAX_KEY && text.split('/').all(is_key_part);
        if spelled { Ok(Self(text.into())) } else { Err(KEY) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ItemId {
    /// The key in Consul's KV.
    pub fn kv_key(&self) -> String {
        format!("{KV_PREFIX}{}/{}", self.scope, self.key.0)
    }

    /// The item that a KV key stands for; `None` for keys that no item can have.
    pub fn from_kv_key(kv_key: &str) -> Option<Self> {
        let mut parts = kv_key.strip_prefix(KV_PREFIX)?.splitn(3, '/');
        let (namespace, environment, key) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { scope: Scope::parse(namespace, environment).ok()?, key: Key::parse(key).ok()? })
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.key.0)
    }
}

fn is_segment(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= MAX_SEGMENT
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_key_part(text: &str) -> bool {
    let mut bytes = text.bytes();
    // A leading dot is refused: `.` and `..` would be rewritten on the way to Consul.
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys() {
        for good in ["a", "database/host", "Feature.X_1-b", "_private", "a/b/c/d"] {
            assert!(Key::parse(good).is_ok(), "{good}");
        }
        let long = "k".repeat(MAX_KEY + 1);
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a b", "ä", "a%2Fb", &long] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
        assert!(Key::parse(&long[1..]).is_ok());
    }

    #[test]
    fn scopes_name_each_bad_part() {
        assert_eq!(Scope::parse("shop", "prod").unwrap().to_string(), "shop/prod");
        assert!(Scope::parse("shop.eu-1", "0").is_ok());
        let faults = Scope::parse("Shop", "").unwrap_err();
        assert_eq!(faults.iter().map(|(field, _)| *field).collect::<Vec<_>>(), ["namespace", "environment"]);
        assert_eq!(Scope::parse("shop", "pr/od").unwrap_err().len(), 1);
    }

    #[test]
    fn foreign_kv_keys_are_no_items() {
        for foreign in ["plinth/config/", "plinth/config/a/b", "plinth/config/a/b/", "plinth/instances/a/b/c"]
        {
            assert_eq!(ItemId::from_kv_key(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn kv_keys_round_trip(
            namespace in "[a-z0-9][a-z0-9._-]{0,62}",
            environment in "[a-z0-9][a-z0-9._-]{0,62}",
            key in "[A-Za-z0-9_][A-Za-z0-9._-]{0,9}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,9}){0,4}",
        ) {
            let id = ItemId { scope: Scope::parse(&namespace, &environment).unwrap(), key: Key::parse(&key).unwrap() };
            prop_assert_eq!(ItemId::from_kv_key(&id.kv_key()), Some(id));
        }
    }
}
