//! Kong's collections as the Admin API names them, and their entities as JSON.

use std::sync::Arc;

use plinth_kong::Config;
use serde::Serialize;
use serde_json::{Value, json};

/// One collection.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// In paths: `key-auths`.
    pub path: &'static str,
    /// In the file and in refusals: `keyauth_credentials`.
    pub name: &'static str,
    /// The field besides `id` that names an entity.
    pub key: &'static str,
    /// Below the entity it belongs to: `/consumers/X/key-auth`.
    pub nested: &'static str,
}

const fn kind(path: &'static str, name: &'static str, key: &'static str, nested: &'static str) -> Kind {
    Kind { path, name, key, nested }
}

/// All of them.
pub const KINDS: &[Kind] = &[
    kind("services", "services", "name", "services"),
    kind("routes", "routes", "name", "routes"),
    kind("upstreams", "upstreams", "name", "upstreams"),
    kind("targets", "targets", "target", "targets"),
    kind("plugins", "plugins", "instance_name", "plugins"),
    kind("consumers", "consumers", "username", "consumers"),
    kind("certificates", "certificates", "", "certificates"),
    kind("snis", "snis", "name", "snis"),
    kind("ca_certificates", "ca_certificates", "", "ca_certificates"),
    kind("jwts", "jwt_secrets", "key", "jwt"),
    kind("key-auths", "keyauth_credentials", "key", "key-auth"),
    kind("basic-auths", "basicauth_credentials", "username", "basic-auth"),
    kind("hmac-auths", "hmacauth_credentials", "username", "hmac-auth"),
    kind("acls", "acls", "", "acls"),
    kind("oauth2", "oauth2_credentials", "client_id", "oauth2"),
    kind("vaults", "vaults", "prefix", "vaults"),
];

/// By the name in paths.
pub fn of_path(path: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.path == path)
}

/// By the name below another entity.
pub fn of_nested(path: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.nested == path || kind.path == path)
}

impl Kind {
    /// The field by which others refer to it: `service`, `consumer`.
    pub fn reference(&self) -> &'static str {
        self.path.trim_end_matches('s')
    }

    /// All entities, in the order of the configuration. References to vaults stand for the values.
    pub fn all(&self, config: &Config) -> Vec<Value> {
        self.each(config).collect()
    }

    /// The same one by one: ten thousand at once are a lot of memory.
    pub fn each<'c>(&self, config: &'c Config) -> impl Iterator<Item = Value> + use<'c> {
        let steps = self.steps(config);
        (0..steps.count).flat_map(steps.entities)
    }

    /// The same to be left and taken up again anywhere.
    pub fn steps<'c>(&self, config: &'c Config) -> Steps<'c> {
        let name = self.name;
        let plain = match name {
            "services" => values(&config.services),
            "routes" => values(&config.routes),
            "plugins" => values(&config.plugins),
            "consumers" => values(&config.consumers),
            "certificates" => Steps::of(&config.certificates, |certificate| {
                shown(certificate, &config.snis).into_iter().collect()
            }),
            "snis" => values(&config.snis),
            "ca_certificates" => values(&config.ca_certificates),
            "jwt_secrets" => values(&config.jwt_secrets),
            "keyauth_credentials" => values(&config.keyauth_credentials),
            "basicauth_credentials" => values(&config.basicauth_credentials),
            "hmacauth_credentials" => values(&config.hmacauth_credentials),
            "acls" => values(&config.acls),
            "oauth2_credentials" => values(&config.oauth2_credentials),
            "vaults" => values(&config.vaults),
            "targets" => Steps::of(&config.upstreams, targets),
            "upstreams" => Steps::of(&config.upstreams, |upstream| {
                let mut upstream = value(upstream);
                upstream
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|fields| drop(fields.remove("targets")));
                upstream
            }),
            _ => values::<()>(&[]),
        };
        let entities = plain.entities;
        let concealed = move |at| {
            let mut entities = entities(at);
            entities.iter_mut().for_each(|entity| config.conceal(name, entity));
            entities
        };
        Steps { count: plain.count, entities: Box::new(concealed) }
    }

    /// One entity, by id or name.
    pub fn find(&self, config: &Config, wanted: &str) -> Option<Value> {
        let is = |value: &Value, field: &str| value[field].as_str() == Some(wanted);
        let by = |field: &str| self.each(config).find(|value| is(value, field));
        by("id").or_else(|| by(self.key))
    }
}

/// The entities of a collection in steps; most have one in each.
pub struct Steps<'c> {
    /// How many there are.
    pub count: usize,
    /// Those of one step.
    pub entities: Box<dyn Fn(usize) -> Vec<Value> + Send + 'c>,
}

impl<'c> Steps<'c> {
    fn of<T: Send + Sync>(items: &'c [Arc<T>], entities: impl Fn(&T) -> Vec<Value> + Send + 'c) -> Self {
        Self {
            count: items.len(),
            entities: Box::new(move |at| items.get(at).map(|item| entities(item)).unwrap_or_default()),
        }
    }
}

fn values<T: Serialize + Send + Sync>(items: &[Arc<T>]) -> Steps<'_> {
    Steps::of(items, value)
}

/// Entities are plain data: each has a JSON form.
fn value(entity: &impl Serialize) -> Vec<Value> {
    serde_json::to_value(entity).into_iter().collect()
}

fn targets(upstream: &plinth_kong::Upstream) -> Vec<Value> {
    let with_parent = |target: &plinth_kong::Target| {
        let mut value = serde_json::to_value(target).ok()?;
        value.as_object_mut()?.insert("upstream".to_owned(), json!({"id": upstream.id}));
        Some(value)
    };
    upstream.targets.iter().filter_map(with_parent).collect()
}

/// A certificate with the names it is for, as Kong shows it.
fn shown(certificate: &plinth_kong::Certificate, snis: &[Arc<plinth_kong::Sni>]) -> Option<Value> {
    let mut value = serde_json::to_value(certificate).ok()?;
    let names = snis.iter().filter(|sni| sni.certificate == certificate.id);
    let names: Vec<&str> = names.map(|sni| sni.name.as_str()).collect();
    value.as_object_mut()?.insert("snis".to_owned(), json!(names));
    Some(value)
}
