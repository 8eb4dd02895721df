//! Kong's collections as the Admin API names them, and their entities as JSON.

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
        fn values<T: Serialize>(items: &[T]) -> Box<dyn Iterator<Item = Value> + '_> {
            // entities are plain data: each has a JSON form
            Box::new(items.iter().filter_map(|item| serde_json::to_value(item).ok()))
        }
        let name = self.name;
        let all = match name {
            "services" => values(&config.services),
            "routes" => values(&config.routes),
            "plugins" => values(&config.plugins),
            "consumers" => values(&config.consumers),
            "certificates" => Box::new(certificates(config).into_iter()),
            "snis" => values(&config.snis),
            "ca_certificates" => values(&config.ca_certificates),
            "jwt_secrets" => values(&config.jwt_secrets),
            "keyauth_credentials" => values(&config.keyauth_credentials),
            "basicauth_credentials" => values(&config.basicauth_credentials),
            "hmacauth_credentials" => values(&config.hmacauth_credentials),
            "acls" => values(&config.acls),
            "oauth2_credentials" => values(&config.oauth2_credentials),
            "vaults" => values(&config.vaults),
            "targets" => Box::new(config.upstreams.iter().flat_map(|upstream| targets(upstream))),
            "upstreams" => Box::new(values(&config.upstreams).map(|mut upstream| {
                upstream.as_object_mut().map(|fields| fields.remove("targets"));
                upstream
            })),
            _ => Box::new(std::iter::empty()),
        };
        all.map(move |mut entity| {
            config.conceal(name, &mut entity);
            entity
        })
    }

    /// One entity, by id or name.
    pub fn find(&self, config: &Config, wanted: &str) -> Option<Value> {
        let is = |value: &Value, field: &str| value[field].as_str() == Some(wanted);
        let by = |field: &str| self.each(config).find(|value| is(value, field));
        by("id").or_else(|| by(self.key))
    }
}

fn targets(upstream: &plinth_kong::Upstream) -> Vec<Value> {
    let with_parent = |target: &plinth_kong::Target| {
        let mut value = serde_json::to_value(target).ok()?;
        value.as_object_mut()?.insert("upstream".to_owned(), json!({"id": upstream.id}));
        Some(value)
    };
    upstream.targets.iter().filter_map(with_parent).collect()
}

/// Certificates with the names they are for, as Kong shows them.
fn certificates(config: &Config) -> Vec<Value> {
    let with_names = |certificate: &plinth_kong::Certificate| {
        let mut value = serde_json::to_value(certificate).ok()?;
        let names = config.snis.iter().filter(|sni| sni.certificate == certificate.id);
        let names: Vec<&str> = names.map(|sni| sni.name.as_str()).collect();
        value.as_object_mut()?.insert("snis".to_owned(), json!(names));
        Some(value)
    };
    config.certificates.iter().filter_map(|certificate| with_names(certificate)).collect()
}
