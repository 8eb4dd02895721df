//! The validated configuration as plain types.
//!
//! Everything is resolved: defaults filled, references are ids that exist, nested entities are flat (only targets stay with
//! their upstream), paths in the 3.0 form. Times are milliseconds unless a name says otherwise. Serialising a [`Config`]
//! gives a document that loads again to the same `Config`.

mod plugin;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

pub use plugin::*;
pub use upstream::{
    ActiveCheck, ActiveHealthy, ActiveUnhealthy, Algorithm, CheckKind, HashInput, Healthchecks, PassiveCheck,
    PassiveHealthy, PassiveUnhealthy, Target, Upstream,
};

/// One whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// `_format_version` as given ("1.1", "2.1", "3.0"); the content below is in 3.0 form whatever it was.
    #[serde(skip)]
    pub format_version: String,
    /// False: basic-auth passwords in the file are already hashed.
    #[serde(rename = "_transform")]
    pub transform: bool,
    pub services: Vec<Arc<Service>>,
    pub routes: Vec<Arc<Route>>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub consumers: Vec<Arc<Consumer>>,
    pub plugins: Vec<Arc<Plugin>>,
    pub certificates: Vec<Arc<Certificate>>,
    pub snis: Vec<Arc<Sni>>,
    pub ca_certificates: Vec<Arc<CaCertificate>>,
    pub jwt_secrets: Vec<Arc<JwtSecret>>,
    pub keyauth_credentials: Vec<Arc<KeyAuthCredential>>,
    pub basicauth_credentials: Vec<Arc<BasicAuthCredential>>,
    pub hmacauth_credentials: Vec<Arc<HmacAuthCredential>>,
    pub acls: Vec<Arc<Acl>>,
    pub oauth2_credentials: Vec<Arc<OAuth2Credential>>,
    pub vaults: Vec<Arc<Vault>>,
    /// Where `{vault://…}` references stood, by collection and id: what is shown instead of their values.
    #[serde(skip)]
    pub references: HashMap<(&'static str, Uuid), Vec<SecretReference>>,
}

/// A value that came from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    /// The field, from the entity on.
    pub path: Vec<crate::Segment>,
    /// What the file says: `{vault://env/name}`.
    pub text: String,
}

impl Config {
    pub fn service(&self, id: Uuid) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| service.id == id)
    }

    pub fn consumer(&self, id: Uuid) -> Option<&Arc<Consumer>> {
        self.consumers.iter().find(|consumer| consumer.id == id)
    }

    /// The upstream a service's host names, if any.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.name == name)
    }

    /// How many entities there are, targets included.
    pub(crate) fn len(&self) -> usize {
        let targets: usize = self.upstreams.iter().map(|upstream| upstream.targets.len()).sum();
        let credentials = self.jwt_secrets.len()
            + self.keyauth_credentials.len()
            + self.basicauth_credentials.len()
            + self.hmacauth_credentials.len()
            + self.acls.len()
            + self.oauth2_credentials.len();
        let certificates = self.certificates.len() + self.snis.len() + self.ca_certificates.len();
        let traffic = self.services.len() + self.routes.len() + self.upstreams.len() + self.consumers.len();
        traffic + targets + credentials + certificates + self.plugins.len() + self.vaults.len()
    }

    /// A 3.0 document (as JSON, which is also YAML) that loads to the same configuration. Values that came from a vault are
    /// references again.
    ///
    /// # Errors
    /// None in practice: every type here has a JSON form.
    pub fn to_document(&self) -> Result<serde_json::Value, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("_format_version".to_owned(), "3.0".into());
            object.retain(|_, member| member.as_array().is_none_or(|list| !list.is_empty()));
            for (collection, _) in self.references.keys() {
                for entity in
                    object.get_mut(*collection).and_then(|list| list.as_array_mut()).into_iter().flatten()
                {
                    self.conceal(collection, entity);
                }
            }
        }
        Ok(value)
    }

    /// Puts references back where an entity's JSON shows the values they stand for.
    pub fn conceal(&self, collection: &str, entity: &mut serde_json::Value) {
        if self.references.is_empty() {
            return;
        }
        let id = entity["id"].as_str().and_then(|id| Uuid::try_parse(id).ok());
        let known = self.references.iter().find(|((of, own), _)| *of == collection && Some(*own) == id);
        for reference in known.into_iter().flat_map(|(_, references)| references) {
            let mut at = Some(&mut *entity);
            for segment in &reference.path {
                at = at.and_then(|value| match segment {
                    crate::Segment::Key(key) => value.get_mut(key.as_ref()),
                    crate::Segment::Index(index) => value.get_mut(*index),
                });
            }
            if let Some(value) = at {
                *value = reference.text.clone().into();
            }
        }
    }
}

/// Serialises an id reference as Kong does: `{"id": "…"}` or null.
pub(crate) mod reference {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Uuid};

    #[derive(Serialize, Deserialize)]
    struct Id {
        id: Uuid,
    }

    pub fn serialize<S: Serializer>(id: &Option<Uuid>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(|id| Id { id }).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uuid>, D::Error> {
        Ok(Option::<Id>::deserialize(deserializer)?.map(|reference| reference.id))
    }

    /// The same for references that must be there.
    pub mod required {
        use super::{Deserialize, Deserializer, Id, Serialize, Serializer, Uuid};

        pub fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
            Id { id: *id }.serialize(serializer)
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
            Id::deserialize(deserializer).map(|reference| reference.id)
        }
    }
}

/// Lists and maps that are null while empty, as Kong shows unset fields.
pub(crate) mod unset {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S, T>(list: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        T: Serialize,
        for<'l> &'l T: IntoIterator,
    {
        if list.into_iter().next().is_none() {
            serializer.serialize_none()
        } else {
            list.serialize(serializer)
        }
    }

    pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: Deserialize<'de> + Default,
    {
        super::or_default(deserializer)
    }
}

/// An explicit null where Kong falls back to the built-in value at run time.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn minute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.unwrap_or(60_000))
}

fn five<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.unwrap_or(5))
}

/// How a service is spoken to, or a route reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Grpc,
    Grpcs,
    Http,
    Https,
    Tcp,
    Tls,
    TlsPassthrough,
    Udp,
}

impl Protocol {
    /// Towards an upstream: TLS or not.
    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Grpcs | Protocol::Https | Protocol::Tls)
    }

    pub fn is_grpc(self) -> bool {
        matches!(self, Protocol::Grpc | Protocol::Grpcs)
    }

    /// Kong's stream module; this gateway does not proxy these.
    pub fn is_stream(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Tls | Protocol::TlsPassthrough | Protocol::Udp)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::Grpcs => "grpcs",
            Protocol::Http => "http",
            Protocol::Https => "https",
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::TlsPassthrough => "tls_passthrough",
            Protocol::Udp => "udp",
        }
    }
}

/// Where requests go. `host` may name an [`Upstream`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub id: Uuid,
    pub name: Option<String>,
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    pub path: Option<String>,
    /// Tries after the first one.
    #[serde(deserialize_with = "five")]
    pub retries: u32,
    /// Milliseconds.
    #[serde(deserialize_with = "minute")]
    pub connect_timeout: u32,
    /// Milliseconds between two writes.
    #[serde(deserialize_with = "minute")]
    pub write_timeout: u32,
    /// Milliseconds between two reads.
    #[serde(deserialize_with = "minute")]
    pub read_timeout: u32,
    /// False: its routes do not exist (404).
    pub enabled: bool,
    pub tls_verify: Option<bool>,
    pub tls_verify_depth: Option<u8>,
    #[serde(with = "unset")]
    pub ca_certificates: Vec<Uuid>,
    #[serde(with = "reference")]
    pub client_certificate: Option<Uuid>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

impl Service {
    /// What metrics call it: the name, or the host of a nameless one.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.host)
    }
}

/// Which requests a service gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub id: Uuid,
    pub name: Option<String>,
    #[serde(with = "reference")]
    pub service: Option<Uuid>,
    pub protocols: Vec<Protocol>,
    #[serde(with = "unset")]
    pub methods: Vec<String>,
    #[serde(with = "unset")]
    pub hosts: Vec<String>,
    /// Prefixes, and regular expressions with a leading `~`.
    #[serde(with = "unset")]
    pub paths: Vec<String>,
    /// Header name to accepted values; a single `~*…` value is a regular expression.
    #[serde(with = "unset")]
    pub headers: BTreeMap<String, Vec<String>>,
    #[serde(with = "unset")]
    pub snis: Vec<String>,
    pub strip_path: bool,
    pub preserve_host: bool,
    pub https_redirect_status_code: u16,
    #[serde(deserialize_with = "or_default")]
    pub regex_priority: i32,
    #[serde(deserialize_with = "or_default")]
    pub path_handling: PathHandling,
    pub request_buffering: bool,
    pub response_buffering: bool,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

impl Route {
    /// What metrics call it: the name, or the id of a nameless one.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }

    /// Served by the HTTP proxy (not a tcp/tls/udp route).
    pub fn is_http(&self) -> bool {
        self.protocols.iter().any(|protocol| !protocol.is_stream())
    }

    /// Only reachable over TLS: plain requests get `https_redirect_status_code`.
    pub fn https_only(&self) -> bool {
        self.protocols.iter().all(|protocol| matches!(protocol, Protocol::Https | Protocol::Grpcs))
    }

    pub fn is_grpc(&self) -> bool {
        self.protocols.iter().any(|protocol| protocol.is_grpc())
    }
}

/// v1 is accepted and behaves as v0, as in Kong's traditional_compatible router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathHandling {
    #[default]
    V0,
    V1,
}

/// Somebody who calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    pub id: Uuid,
    pub username: Option<String>,
    pub custom_id: Option<String>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// A server certificate. The key is a secret: `Debug` hides it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub id: Uuid,
    pub cert: String,
    pub key: String,
    pub cert_alt: Option<String>,
    pub key_alt: Option<String>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// Which certificate a TLS server name gets; `*.x` and `x.*` are wildcards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sni {
    pub id: Uuid,
    pub name: String,
    #[serde(with = "reference::required")]
    pub certificate: Uuid,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// A trusted authority for TLS to upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaCertificate {
    pub id: Uuid,
    pub cert: String,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// How one consumer's tokens are checked.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct JwtSecret {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    /// The value of the token's `iss` (or the configured claim).
    pub key: String,
    pub algorithm: JwtAlgorithm,
    /// HMAC secret.
    pub secret: Option<String>,
    /// PEM public key for RS, PS, ES and EdDSA.
    pub rsa_public_key: Option<String>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// Token signature algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    ES512,
    PS256,
    PS384,
    PS512,
    EdDSA,
}

/// An API key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyAuthCredential {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    pub key: String,
    /// Seconds from loading after which the key stops working.
    pub ttl: Option<u64>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// A user name and password.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct BasicAuthCredential {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    pub username: String,
    /// Plain, or the hash when the file says `_transform: false`.
    pub password: String,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// A shared secret of the hmac-auth plugin.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct HmacAuthCredential {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    pub username: String,
    pub secret: Option<String>,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// A group a consumer is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acl {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    pub group: String,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// An application of the oauth2 plugin.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct OAuth2Credential {
    pub id: Uuid,
    #[serde(with = "reference::required")]
    pub consumer: Uuid,
    pub name: String,
    pub client_id: String,
    /// Plain, or the hash when `hash_secret` is set and the file says `_transform: false`.
    pub client_secret: Option<String>,
    pub hash_secret: bool,
    /// Where browsers may be sent back to.
    #[serde(with = "unset")]
    pub redirect_uris: Vec<String>,
    pub client_type: ClientType,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

/// Whether an application can keep a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientType {
    Confidential,
    Public,
}

/// A named vault: references `{vault://prefix/…}` read environment variables that begin with `config.prefix`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vault {
    pub id: Uuid,
    pub prefix: String,
    pub name: String,
    pub description: Option<String>,
    pub config: VaultConfig,
    #[serde(with = "unset")]
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VaultConfig {
    pub prefix: Option<String>,
}

macro_rules! debug_by_id {
    ($($name:ident),*) => {$(
        /// Shows the id only: the rest holds secrets.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.id)
            }
        }
    )*};
}
debug_by_id!(
    Certificate,
    JwtSecret,
    KeyAuthCredential,
    BasicAuthCredential,
    HmacAuthCredential,
    OAuth2Credential
);
