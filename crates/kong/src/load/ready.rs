//! One validated entity in its final type, with all that linking needs to know of it. Kept from one load to the next, so that an
//! entity whose text did not change is neither read nor checked again.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::segments;
use crate::Warning;
use crate::entities::Entity;
use crate::model::{
    Acl, BasicAuthCredential, CaCertificate, Certificate, Consumer, HmacAuthCredential, JwtSecret,
    KeyAuthCredential, OAuth2Credential, Plugin, Protocol, Route, SecretReference, Service, Sni, Target,
    Upstream, Vault, reference,
};
use crate::node::{Map, Node};
use crate::plugins::{self, Lookup};

/// A reference as written and what it was resolved to.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub field: &'static str,
    /// The collection referred to.
    pub to: &'static str,
    pub text: Box<str>,
    pub id: Uuid,
}

#[derive(Debug)]
pub(super) struct Ready {
    /// Of what it was read from and where that stood.
    pub digest: u128,
    /// How many entities of the same content came before it.
    pub copy: u32,
    pub id: Uuid,
    /// The id of the first entity with this content.
    pub first_id: Uuid,
    pub given_id: bool,
    /// The id comes from the content: another entity may have the same.
    pub by_content: bool,
    /// What others refer to it by.
    pub key: Option<Box<str>>,
    /// Values that may not occur twice, by field.
    pub unique: Vec<(&'static str, Box<str>)>,
    pub references: Vec<Reference>,
    pub typed: Typed,
    /// Paths begin at the entity.
    pub warnings: Vec<Warning>,
    pub secrets: Vec<SecretReference>,
}

impl Ready {
    /// Its warnings, as seen from the top of the document.
    pub fn warnings_at(&self, steps: &[(&'static str, usize)]) -> impl Iterator<Item = Warning> {
        self.warnings.iter().map(|warning| {
            let mut path = segments(steps);
            path.extend(warning.path.iter().cloned());
            Warning { path, message: warning.message.clone() }
        })
    }
}

#[derive(Clone, Debug)]
pub(super) enum Typed {
    Vault(Arc<Vault>),
    Service(Arc<Service>),
    Route(Arc<Route>),
    Upstream(Arc<Upstream>),
    Target(Uuid, Arc<Target>),
    Consumer(Arc<Consumer>),
    Plugin(Arc<Plugin>),
    Certificate(Arc<Certificate>),
    Sni(Arc<Sni>),
    CaCertificate(Arc<CaCertificate>),
    Jwt(Arc<JwtSecret>),
    Key(Arc<KeyAuthCredential>),
    Basic(Arc<BasicAuthCredential>),
    Hmac(Arc<HmacAuthCredential>),
    Acl(Arc<Acl>),
    OAuth2(Arc<OAuth2Credential>),
    /// Checked and not kept.
    Nothing,
}

/// From a map that holds every field, references as `{id}`.
///
/// # Errors
/// A table that lets through what its type does not hold.
pub(super) fn typed(entity: &Entity, map: Map) -> Result<Typed, String> {
    let value = Node::Map(map).into_json();
    Ok(match entity.collection {
        "vaults" => Typed::Vault(read(value)?),
        "services" => Typed::Service(read(value)?),
        "routes" => Typed::Route(read(value)?),
        "upstreams" => Typed::Upstream(read(value)?),
        "targets" => {
            let PlacedTarget { upstream, target } =
                serde_json::from_value(value).map_err(|error| error.to_string())?;
            Typed::Target(upstream, Arc::new(target))
        }
        "consumers" => Typed::Consumer(read(value)?),
        "plugins" => Typed::Plugin(Arc::new(plugin(value)?)),
        "certificates" => Typed::Certificate(read(value)?),
        "snis" => Typed::Sni(read(value)?),
        "ca_certificates" => Typed::CaCertificate(read(value)?),
        "jwt_secrets" => Typed::Jwt(read(value)?),
        "keyauth_credentials" => Typed::Key(read(value)?),
        "basicauth_credentials" => Typed::Basic(read(value)?),
        "hmacauth_credentials" => Typed::Hmac(read(value)?),
        "acls" => Typed::Acl(read(value)?),
        "oauth2_credentials" => Typed::OAuth2(read(value)?),
        _ => Typed::Nothing,
    })
}

fn read<T: DeserializeOwned>(value: Value) -> Result<Arc<T>, String> {
    serde_json::from_value(value).map(Arc::new).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct PlacedTarget {
    #[serde(with = "reference::required")]
    upstream: Uuid,
    #[serde(flatten)]
    target: Target,
}

/// All of a plugin but its configuration.
#[derive(Deserialize)]
struct Head {
    id: Uuid,
    name: String,
    instance_name: Option<String>,
    #[serde(with = "reference")]
    service: Option<Uuid>,
    #[serde(with = "reference")]
    route: Option<Uuid>,
    #[serde(with = "reference")]
    consumer: Option<Uuid>,
    enabled: bool,
    protocols: Vec<Protocol>,
    tags: Option<Vec<String>>,
    config: Value,
}

fn plugin(value: Value) -> Result<Plugin, String> {
    let head: Head = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let schema = match plugins::lookup(&head.name) {
        Lookup::Supported(schema) => schema,
        Lookup::Refused(message) => return Err(message),
    };
    let config = (schema.build)(head.config).map_err(|error| error.to_string())?;
    Ok(Plugin {
        id: head.id,
        name: head.name,
        instance_name: head.instance_name,
        service: head.service,
        route: head.route,
        consumer: head.consumer,
        enabled: head.enabled,
        protocols: head.protocols,
        tags: head.tags.unwrap_or_default(),
        config,
    })
}
