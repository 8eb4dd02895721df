//! A registration as a caller sends it, and its way to `plinth_core::registration::Registration`.

use std::net::IpAddr;
use std::time::Duration;

use plinth_core::registration::{CheckSpec, FieldFault, Registration, host_port};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::check::{CheckDraft, CheckKind, InitialStatus};

/// Ids that the API's own paths use.
pub const RESERVED_IDS: [&str; 5] = ["register", "discover", "select", "batch", "watch"];

/// The body of a registration.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceDraft {
    /// The name others find it by: 1 to 63 letters, digits and inner hyphens (a DNS label).
    #[schema(example = "user-service")]
    pub service_name: String,
    /// The id of this instance, one in the whole platform. Generated when absent.
    #[schema(example = "user-service-1")]
    pub service_id: Option<String>,
    /// IPv4 or IPv6 address or host name, as others reach it. Not an unspecified or multicast one.
    #[schema(example = "10.0.3.17")]
    pub address: String,
    #[schema(example = 8001, minimum = 1, maximum = 65535)]
    pub port: u32,
    /// Path of an HTTP health check on the registered address. `check` says the rest.
    #[schema(example = "/health")]
    pub health_check: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Any JSON object; discover gives it back as it is.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Share of the traffic relative to the other instances, 1 to 65535. Default 1.
    #[schema(example = 1)]
    pub weight: Option<u32>,
    pub check: Option<CheckDraft>,
}

/// A registration that keeps every rule.
#[derive(Debug)]
pub struct Accepted {
    pub registration: Registration,
    pub initial: InitialStatus,
}

impl ServiceDraft {
    /// Checks every rule and builds the registration. `new_id` makes the id when the draft has none; `admin` says
    /// whether the caller may have other hosts than its own probed.
    ///
    /// # Errors
    /// All faults at once, each with its field.
    pub fn accept(
        self,
        admin: bool,
        new_id: impl FnOnce(&str) -> String,
    ) -> Result<Accepted, Vec<FieldFault>> {
        let mut faults = Vec::new();
        let port = u16::try_from(self.port).unwrap_or(0);
        let address = self.address.trim_start_matches('[').trim_end_matches(']').to_owned();
        let service_id = self.service_id.unwrap_or_else(|| new_id(&self.service_name));
        if RESERVED_IDS.contains(&service_id.as_str()) {
            faults.push(FieldFault::new("service_id", "is a word of the API's own paths; choose another id"));
        }
        if let Some(message) = unwanted_address(&address, admin) {
            faults.push(FieldFault::new("address", message));
        }
        let initial = initial_status(self.check.as_ref(), self.health_check.is_some());
        let ttl =
            self.check.as_ref().filter(|check| check.kind != CheckKind::Ttl).and_then(|check| check.ttl);
        let probed = Probed { address: &address, port, health_check: self.health_check.as_deref(), admin };
        let check = probed.check(self.check, &mut faults);
        let registration = Registration {
            service_name: self.service_name,
            service_id,
            address,
            port,
            tags: self.tags,
            metadata: self.metadata,
            check,
            ttl,
            weight: self.weight.unwrap_or(1),
            connect_native: false,
        };
        faults.extend(registration.validate());
        if faults.is_empty() { Ok(Accepted { registration, initial }) } else { Err(faults) }
    }
}

/// What counts before the first probe. Without active checks an instance is healthy as long as it is registered.
fn initial_status(check: Option<&CheckDraft>, has_path: bool) -> InitialStatus {
    match check {
        Some(check) if check.kind == CheckKind::Ttl => InitialStatus::Healthy,
        Some(check) => check.initial_status,
        None if has_path => InitialStatus::Critical,
        None => InitialStatus::Healthy,
    }
}

/// What probes may be sent to.
struct Probed<'a> {
    address: &'a str,
    port: u16,
    health_check: Option<&'a str>,
    /// May name other hosts than the registered one. Everybody else would make the health-aggregator knock at doors
    /// of their choice.
    admin: bool,
}

impl Probed<'_> {
    fn check(&self, draft: Option<CheckDraft>, faults: &mut Vec<FieldFault>) -> CheckSpec {
        if let Some(path) = self.health_check.filter(|path| !path.starts_with('/')) {
            let message =
                format!("{path:?} is no path; a path begins with a slash, a whole URL goes into check.url");
            faults.push(FieldFault::new("health_check", message));
        }
        let Some(draft) = draft else {
            return self.health_check.map_or(CheckSpec::None, CheckSpec::http);
        };
        draft.misplaced(faults);
        if let Some(path) = draft.path.as_deref().filter(|path| !path.starts_with('/')) {
            faults.push(FieldFault::new("check.path", format!("{path:?} does not begin with a slash")));
        }
        let timing = draft.timing();
        match draft.kind {
            CheckKind::Ttl => {
                if draft.ttl.is_none() {
                    faults.push(FieldFault::new("check.ttl", "is required for the type ttl"));
                }
                CheckSpec::Ttl { ttl: draft.ttl.unwrap_or(Duration::from_secs(30)) }
            }
            CheckKind::Http | CheckKind::Https => CheckSpec::Http {
                path: self.probed_url(&draft, faults),
                method: draft.method,
                headers: draft.headers.into_iter().map(|(name, value)| (name, vec![value])).collect(),
                tls_skip_verify: draft.tls_skip_verify,
                timing,
            },
            CheckKind::Tcp => CheckSpec::Tcp { target: self.probed_target(draft.target, faults), timing },
            CheckKind::Grpc => CheckSpec::Grpc {
                target: self.probed_target(draft.target, faults),
                service: draft.service.unwrap_or_default(),
                tls: draft.tls,
                tls_skip_verify: draft.tls_skip_verify,
                timing,
            },
        }
    }

    /// The URL, or the path on the registered address.
    fn probed_url(&self, draft: &CheckDraft, faults: &mut Vec<FieldFault>) -> String {
        let path = draft.path.as_deref().or(self.health_check).unwrap_or("/health");
        let Some(url) = &draft.url else {
            return match draft.kind {
                CheckKind::Https => format!("https://{}{path}", host_port(self.address, self.port)),
                _ => path.to_owned(),
            };
        };
        let scheme = if draft.kind == CheckKind::Https { "https" } else { "http" };
        match url.parse::<http::Uri>() {
            Ok(uri) if uri.scheme_str() == Some(scheme) => self.own_host("check.url", uri.host(), faults),
            _ => faults.push(FieldFault::new("check.url", format!("{url:?} is no whole {scheme} URL"))),
        }
        url.clone()
    }

    fn probed_target(&self, target: Option<String>, faults: &mut Vec<FieldFault>) -> Option<String> {
        let target = target?;
        match target.parse::<http::uri::Authority>() {
            Ok(authority) if authority.port_u16().is_some_and(|port| port > 0) && !target.contains('@') => {
                self.own_host("check.target", Some(authority.host()), faults);
            }
            _ => faults.push(FieldFault::new("check.target", format!("{target:?} is not host:port"))),
        }
        Some(target)
    }

    fn own_host(&self, field: &str, host: Option<&str>, faults: &mut Vec<FieldFault>) {
        let host = host.unwrap_or_default().trim_matches(['[', ']']);
        let same = match (host.parse::<IpAddr>(), self.address.parse::<IpAddr>()) {
            (Ok(host), Ok(address)) => host == address,
            _ => host.eq_ignore_ascii_case(self.address),
        };
        if !same && !self.admin {
            let message =
                format!("{host:?} is not the registered address; probing it takes the scope services:admin");
            faults.push(FieldFault::new(field, message));
        }
    }
}

/// Why nobody (multicast, broadcast) or not everybody (link-local) may register this address. Link-local addresses carry
/// the metadata services of clouds, and mean something else on every host.
fn unwanted_address(address: &str, admin: bool) -> Option<&'static str> {
    let address = address.parse::<IpAddr>().ok()?.to_canonical();
    let (many, link_local) = match address {
        IpAddr::V4(address) => (address.is_multicast() || address.is_broadcast(), address.is_link_local()),
        IpAddr::V6(address) => (address.is_multicast(), address.is_unicast_link_local()),
    };
    match (many, link_local) {
        (true, _) => Some("is a multicast or broadcast address; name one instance's own"),
        (_, true) if !admin => Some("is link-local; registering it takes the scope services:admin"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accept(body: Value, admin: bool) -> Result<Accepted, Vec<FieldFault>> {
        let mut whole = json!({"service_name": "user-service", "address": "10.0.0.1", "port": 8001});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let draft: ServiceDraft = serde_json::from_value(whole).unwrap();
        draft.accept(admin, |name| format!("{name}-generated"))
    }

    fn fields(body: Value) -> Vec<String> {
        accept(body, false).unwrap_err().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn the_least_is_enough() {
        let accepted = accept(json!({}), false).unwrap();
        assert_eq!(accepted.registration.service_id, "user-service-generated");
        assert_eq!(accepted.registration.weight, 1);
        assert_eq!(accepted.registration.check, CheckSpec::None);
        assert_eq!(accepted.initial, InitialStatus::Healthy);
    }

    #[test]
    fn health_check_is_an_http_check() {
        let accepted = accept(json!({"health_check": "/ping"}), false).unwrap();
        assert_eq!(accepted.registration.check, CheckSpec::http("/ping"));
        assert_eq!(accepted.initial, InitialStatus::Critical);
        let body = json!({"health_check": "/ping", "check": {"type": "http", "interval": "2s", "deregister_after": 0}});
        let CheckSpec::Http { path, timing, .. } = accept(body, false).unwrap().registration.check else {
            panic!()
        };
        assert_eq!(path, "/ping");
        assert_eq!(timing.interval, Duration::from_secs(2));
        assert_eq!(timing.deregister_after, None);
    }

    #[test]
    fn every_type_of_check() {
        let check = |check: Value| accept(json!({"check": check}), false).unwrap().registration;
        let https = check(json!({"type": "https", "path": "/up"})).check;
        assert_eq!(https.target("10.0.0.1", 8001).as_deref(), Some("https://10.0.0.1:8001/up"));
        let tcp = check(json!({"type": "tcp", "target": "10.0.0.1:9000"})).check;
        assert_eq!(tcp.target("10.0.0.1", 8001).as_deref(), Some("10.0.0.1:9000"));
        let grpc = check(json!({"type": "grpc", "service": "a.B", "tls": true})).check;
        assert_eq!(grpc.target("10.0.0.1", 8001).as_deref(), Some("10.0.0.1:8001"));
        let ttl = check(json!({"type": "ttl", "ttl": "30s"}));
        assert_eq!(ttl.lease_ttl(), Some(Duration::from_secs(30)));
        let both = check(json!({"type": "tcp", "ttl": 60}));
        assert_eq!((both.check.kind(), both.lease_ttl()), ("tcp", Some(Duration::from_secs(60))));
    }

    #[test]
    fn bad_input_is_refused_by_field() {
        let table = [
            (json!({"service_name": ""}), "service_name"),
            (json!({"port": 0}), "port"),
            (json!({"port": 65_536}), "port"),
            (json!({"address": ""}), "address"),
            (json!({"address": "0.0.0.0"}), "address"),
            (json!({"address": "::"}), "address"),
            (json!({"address": "224.0.0.1"}), "address"),
            (json!({"address": "ff02::1"}), "address"),
            (json!({"address": "255.255.255.255"}), "address"),
            (json!({"address": "169.254.169.254"}), "address"),
            (json!({"address": "fe80::1"}), "address"),
            (json!({"address": "::ffff:169.254.169.254"}), "address"),
            (json!({"address": "a b"}), "address"),
            (json!({"service_id": "register"}), "service_id"),
            (json!({"health_check": "ping"}), "health_check"),
            (json!({"check": {"type": "ttl"}}), "check.ttl"),
            (json!({"check": {"type": "ttl", "ttl": "30s", "interval": "10s"}}), "check.interval"),
            (json!({"check": {"type": "tcp", "path": "/x"}}), "check.path"),
            (json!({"check": {"type": "http", "path": "x"}}), "check.path"),
            (json!({"check": {"type": "http", "url": "http://10.0.0.2/"}}), "check.url"),
            (json!({"check": {"type": "http", "url": "http://10.0.0.1@10.0.0.2/"}}), "check.url"),
            (json!({"check": {"type": "http", "url": "https://10.0.0.1/"}}), "check.url"),
            (json!({"check": {"type": "http", "url": "file:///etc/passwd"}}), "check.url"),
            (json!({"check": {"type": "grpc", "target": "10.0.0.2:80"}}), "check.target"),
            (json!({"check": {"type": "tcp", "target": "10.0.0.1"}}), "check.target"),
            (json!({"check": {"type": "tcp", "target": "x@10.0.0.1:80"}}), "check.target"),
        ];
        for (body, field) in table {
            let found = fields(body.clone());
            assert!(found.iter().any(|found| found == field), "{body}: {found:?}");
        }
    }

    #[test]
    fn all_faults_come_at_once() {
        let found = fields(json!({"port": 0, "address": "0.0.0.0", "check": {"type": "ttl"}}));
        for field in ["port", "address", "check.ttl"] {
            assert!(found.iter().any(|found| found == field), "{field} in {found:?}");
        }
    }

    #[test]
    fn admins_may_have_others_probed() {
        let body = json!({"address": "169.254.1.1", "check": {"type": "http", "url": "http://10.0.0.2/up"}});
        assert!(accept(body, true).is_ok());
    }

    #[test]
    fn ipv6_with_and_without_brackets() {
        for address in ["2001:db8::1", "[2001:db8::1]"] {
            let body = json!({"address": address, "check": {"type": "tcp", "target": "[2001:db8::1]:90"}});
            assert_eq!(accept(body, false).unwrap().registration.address, "2001:db8::1");
        }
    }
}
