//! What a registration must look like. Pure.

use std::net::IpAddr;
use std::time::Duration;

use super::{CheckSpec, FieldFault, Registration, Timing};

const MAX_NAME: usize = 128;
const MAX_ID: usize = 200;
const MAX_TAGS: usize = 128;
const MAX_TAG: usize = 256;
/// The whole metadata as JSON; a document must stay far below Consul's 512 KiB.
const MAX_METADATA: usize = 64 << 10;
const MAX_WEIGHT: u32 = 65_535;
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(86_400);
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);

impl Registration {
    /// Every fault with its field; empty means valid.
    pub fn validate(&self) -> Vec<FieldFault> {
        let mut faults = Faults(Vec::new());
        faults.check("service_name", name_fault(&self.service_name));
        faults.check("service_id", id_fault(&self.service_id));
        faults.check("address", address_fault(&self.address));
        faults.check("port", (self.port == 0).then(|| "must be from 1 to 65535".to_owned()));
        faults.check("tags", tags_fault(&self.tags));
        faults.check("metadata", self.metadata_fault());
        faults.check("ttl", self.ttl.and_then(ttl_fault));
        faults.check(
            "weight",
            (self.weight == 0 || self.weight > MAX_WEIGHT).then(|| format!("must be from 1 to {MAX_WEIGHT}")),
        );
        self.check.add_faults(&mut faults);
        faults.0
    }

    fn metadata_fault(&self) -> Option<String> {
        let size = serde_json::to_string(&self.metadata).map_or(usize::MAX, |text| text.len());
        (size > MAX_METADATA).then(|| format!("must be at most {MAX_METADATA} bytes as JSON"))
    }
}

struct Faults(Vec<FieldFault>);

impl Faults {
    fn check(&mut self, field: &str, message: Option<String>) {
        if let Some(message) = message {
            self.0.push(FieldFault::new(field, message));
        }
    }
}

impl CheckSpec {
    fn add_faults(&self, faults: &mut Faults) {
        match self {
            Self::None => {}
            Self::Ttl { ttl } => faults.check("check.ttl", ttl_fault(*ttl)),
            Self::Http { path, method, headers, .. } => {
                faults.check("check.path", path_fault(path));
                faults.check("check.method", method.as_deref().and_then(method_fault));
                for (name, values) in headers {
                    faults.check("check.headers", header_fault(name, values));
                }
            }
            Self::Tcp { target, .. } | Self::Grpc { target, .. } => {
                faults.check("check.target", target.as_deref().and_then(target_fault));
            }
        }
        if let Some(timing) = self.timing() {
            timing.add_faults(faults);
        }
    }
}

impl Timing {
    fn add_faults(&self, faults: &mut Faults) {
        faults.check(
            "check.interval",
            (!INTERVAL.contains(&self.interval)).then(|| "must be from 100ms to 1h".to_owned()),
        );
        faults.check(
            "check.timeout",
            (!TIMEOUT.contains(&self.timeout)).then(|| "must be from 10ms to 10m".to_owned()),
        );
    }
}

fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("must not be empty".to_owned());
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (!starts_well || !fits || name.len() > MAX_NAME).then(|| {
        format!(
            "must be at most {MAX_NAME} letters, digits, '-', '_' or '.', beginning with a letter or digit"
        )
    })
}

/// Ids become KV keys, whose paths Consul cleans: `//`, `/./` and `/../` would name another key.
fn id_fault(id: &str) -> Option<String> {
    if id.is_empty() || id.len() > MAX_ID {
        return Some(format!("must be from 1 to {MAX_ID} bytes"));
    }
    if id.chars().any(char::is_control) {
        return Some("must not hold control characters".to_owned());
    }
    if id.trim() != id {
        return Some("must not begin or end with a blank".to_owned());
    }
    id.split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
        .then(|| "must not hold empty, '.' or '..' segments between slashes".to_owned())
}

fn address_fault(address: &str) -> Option<String> {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return ip
            .is_unspecified()
            .then(|| "is the unspecified address; name one that others can reach".to_owned());
    }
    (!is_host_name(address)).then(|| "must be an IPv4 address, an IPv6 address or a host name".to_owned())
}

fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits only is a mistyped IPv4 address, never a host.
    let last_is_number =
        name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label_fits) && !last_is_number
}

fn tags_fault(tags: &[String]) -> Option<String> {
    if tags.len() > MAX_TAGS {
        return Some(format!("must be at most {MAX_TAGS}"));
    }
    tags.iter()
        .any(|tag| tag.is_empty() || tag.len() > MAX_TAG || tag.chars().any(char::is_control))
        .then(|| format!("each must be 1 to {MAX_TAG} bytes without control characters"))
}

fn ttl_fault(ttl: Duration) -> Option<String> {
    (!TTL.contains(&ttl)).then(|| "must be from 10s to 24h".to_owned())
}

fn path_fault(path: &str) -> Option<String> {
    let known = path.starts_with('/') || path.starts_with("http://") || path.starts_with("https://");
    let parses = path.parse::<http::Uri>().is_ok_and(|uri| path.starts_with('/') || uri.host().is_some());
    (!known || !parses).then(|| "must be a path beginning with '/' or an http(s) URL".to_owned())
}

fn method_fault(method: &str) -> Option<String> {
    http::Method::from_bytes(method.as_bytes()).is_err().then(|| "is not an HTTP method".to_owned())
}

fn header_fault(name: &str, values: &[String]) -> Option<String> {
    let bad_name = http::HeaderName::from_bytes(name.as_bytes()).is_err();
    let bad_value = values.iter().any(|value| http::HeaderValue::from_str(value).is_err());
    (bad_name || bad_value).then(|| format!("{name:?} is not a valid header"))
}

fn target_fault(target: &str) -> Option<String> {
    let Some((host, port)) = target.rsplit_once(':') else { return Some("must be host:port".to_owned()) };
    let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let bad_port = port.parse::<u16>().map_or(true, |port| port == 0);
    (bad_port || address_fault(host).is_some()).then(|| "must be host:port".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{CheckSpec, Registration};

    fn fields(change: impl FnOnce(&mut Registration)) -> Vec<String> {
        let mut registration = Registration::new("user-service", "user-1", "10.0.0.1", 8001);
        change(&mut registration);
        registration.validate().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn accepts_what_is_reachable() {
        for address in ["10.0.0.1", "::1", "fe80::1", "localhost", "a.b-c.example.com", "user_service", "x."]
        {
            assert!(fields(|r| r.address = address.into()).is_empty(), "{address}");
        }
        for id in ["a b", "host:8001", "a/b/c", "ü", "x.y"] {
            assert!(fields(|r| r.service_id = id.into()).is_empty(), "{id}");
        }
        assert!(fields(|r| r.check = CheckSpec::http("/health?x=1")).is_empty());
        assert!(fields(|r| r.check = CheckSpec::http("https://[::1]:8443/health")).is_empty());
    }

    #[test]
    fn names_each_wrong_field() {
        for address in ["", "0.0.0.0", "::", "10.0.0", "10.0.0.256", "-a", "a b", "[::1]", "a..b", "host:80"]
        {
            assert_eq!(fields(|r| r.address = address.into()), ["address"], "{address}");
        }
        for id in ["", " a", "a//b", "/a", "a/", "a/../b", "./a", "a\nb"] {
            assert_eq!(fields(|r| r.service_id = id.into()), ["service_id"], "{id}");
        }
        for name in ["", "-a", "a b", "a/b"] {
            assert_eq!(fields(|r| r.service_name = name.into()), ["service_name"], "{name}");
        }
        assert_eq!(fields(|r| r.port = 0), ["port"]);
        assert_eq!(fields(|r| r.weight = 0), ["weight"]);
        assert_eq!(fields(|r| r.ttl = Some(Duration::from_secs(9))), ["ttl"]);
        assert_eq!(fields(|r| r.tags = vec![String::new()]), ["tags"]);
        assert_eq!(fields(|r| r.check = CheckSpec::http("health")), ["check.path"]);
        assert_eq!(fields(|r| r.check = CheckSpec::Ttl { ttl: Duration::ZERO }), ["check.ttl"]);
    }

    #[test]
    fn reports_all_faults_at_once() {
        let faults = fields(|r| {
            r.port = 0;
            r.address = "0.0.0.0".into();
            r.service_name = String::new();
        });
        assert_eq!(faults, ["service_name", "address", "port"]);
    }

    proptest! {
        #[test]
        fn never_panics(name in ".*", id in ".*", address in ".*", path in ".*") {
            let mut registration = Registration::new(name, id, address, 1);
            registration.check = CheckSpec::http(path);
            let _faults = registration.validate();
        }
    }
}
