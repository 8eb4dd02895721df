//! How a caller says in a request how its instance is to be checked.

use std::collections::BTreeMap;
use std::time::Duration;

use plinth_core::registration::{FieldFault, Status, Timing};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// Who looks whether an instance is well, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// The health-aggregator asks by HTTP; 2xx passes, 429 warns, all else is critical.
    Http,
    /// The same over TLS.
    Https,
    /// The health-aggregator opens a TCP connection.
    Tcp,
    /// The health-aggregator asks `grpc.health.v1.Health/Check`.
    Grpc,
    /// The instance itself sends heartbeats; it is gone when they stop for longer than twice `ttl`.
    Ttl,
}

/// The status an actively checked instance starts with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitialStatus {
    /// Found by `healthy_only=true` at once, before the first probe.
    Healthy,
    /// Not until the first probe, which follows at once when a health-aggregator runs.
    #[default]
    Critical,
}

/// How the instance is checked. Left out: `health_check` decides, and with neither the instance counts as healthy
/// until it is deregistered.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckDraft {
    #[serde(rename = "type")]
    pub kind: CheckKind,
    /// Time between probes, `"10s"` or seconds. Default 10 s.
    #[serde(default, deserialize_with = "duration")]
    #[schema(value_type = Option<String>, example = "10s")]
    pub interval: Option<Duration>,
    /// How long a probe may take. Default 5 s.
    #[serde(default, deserialize_with = "duration")]
    #[schema(value_type = Option<String>, example = "5s")]
    pub timeout: Option<Duration>,
    /// Lease of 10 s to 24 h: the instance is gone when no heartbeat comes for longer than twice this. Required for
    /// `ttl`; with another type both count.
    #[serde(default, deserialize_with = "duration")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub ttl: Option<Duration>,
    /// Critical for this long: removed. Default 30 s; `"0s"`: never.
    #[serde(default, deserialize_with = "duration")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub deregister_after: Option<Duration>,
    /// `http` and `https`: the path asked for. Default: `health_check`, else `/health`.
    #[schema(example = "/health")]
    pub path: Option<String>,
    /// `http` and `https`: asked instead of the registered address. Another host than the registered one takes the
    /// scope `services:admin`.
    pub url: Option<String>,
    /// `tcp` and `grpc`: `host:port` probed instead of the registered address. Another host takes `services:admin`.
    pub target: Option<String>,
    /// `http` and `https`. Default `GET`.
    pub method: Option<String>,
    /// `http` and `https`: sent with each probe.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `https` and `grpc`: accept any certificate.
    #[serde(default)]
    pub tls_skip_verify: bool,
    /// `grpc`: speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// `grpc`: the service name asked for. Default: the server as a whole.
    pub service: Option<String>,
    /// `http`, `https`, `tcp`, `grpc`: the status until the first probe.
    #[serde(default)]
    pub initial_status: InitialStatus,
}

impl CheckDraft {
    /// The times, with the defaults for those left out.
    pub fn timing(&self) -> Timing {
        let default = Timing::default();
        Timing {
            interval: self.interval.unwrap_or(default.interval),
            timeout: self.timeout.unwrap_or(default.timeout),
            deregister_after: match self.deregister_after {
                None => default.deregister_after,
                Some(Duration::ZERO) => None,
                given => given,
            },
        }
    }

    /// Members that mean nothing for this type are refused rather than silently dropped.
    pub fn misplaced(&self, faults: &mut Vec<FieldFault>) {
        use CheckKind::{Grpc, Http, Https, Tcp};
        let given: [(&str, bool, &[CheckKind]); 10] = [
            ("interval", self.interval.is_some(), &[Http, Https, Tcp, Grpc]),
            ("timeout", self.timeout.is_some(), &[Http, Https, Tcp, Grpc]),
            ("deregister_after", self.deregister_after.is_some(), &[Http, Https, Tcp, Grpc]),
            ("path", self.path.is_some(), &[Http, Https]),
            ("url", self.url.is_some(), &[Http, Https]),
            ("method", self.method.is_some(), &[Http, Https]),
            ("headers", !self.headers.is_empty(), &[Http, Https]),
            ("target", self.target.is_some(), &[Tcp, Grpc]),
            ("service", self.service.is_some(), &[Grpc]),
            ("tls", self.tls, &[Grpc]),
        ];
        for (member, given, kinds) in given {
            if given && !kinds.contains(&self.kind) {
                let kind = serde_json::to_value(self.kind).unwrap_or_default();
                faults.push(FieldFault::new(
                    format!("check.{member}"),
                    format!("means nothing for the type {kind}"),
                ));
            }
        }
    }
}

impl From<InitialStatus> for Status {
    fn from(initial: InitialStatus) -> Self {
        match initial {
            InitialStatus::Healthy => Self::Passing,
            InitialStatus::Critical => Self::Critical,
        }
    }
}

/// A duration as people write it: `500ms`, `10s`, `1m30s`, `2h`; a bare number is seconds.
///
/// # Errors
/// The rule that was broken, to be shown beside the field's name.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let duration = match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => plinth_core::consul::duration::parse(text),
    };
    duration
        .filter(|duration| *duration <= LONGEST)
        .ok_or("must be a duration such as 500ms, 10s or 1m30s, at most a year")
}

/// Sums and multiples of durations stay far from overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

#[derive(Deserialize)]
#[serde(untagged)]
enum DurationText {
    Seconds(u64),
    Text(String),
    None,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let rule = |message: &'static str| <D::Error as serde::de::Error>::custom(message);
    let text = DurationText::deserialize(deserializer);
    match text.map_err(|_| rule("must be a duration such as \"500ms\", \"10s\" or a number of seconds"))? {
        DurationText::None => Ok(None),
        DurationText::Seconds(seconds) => parse_duration(&seconds.to_string()).map(Some).map_err(rule),
        DurationText::Text(text) => parse_duration(&text).map(Some).map_err(rule),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let table = [
            ("10s", Some(10_000)),
            ("10", Some(10_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("2h", Some(7_200_000)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("10x", None),
            ("-1s", None),
            ("1.5s", Some(1_500)),
            ("10s5", None),
            ("9000h", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("18446744073709551615", None),
            ("1ü", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_duration(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_check_takes_text_numbers_and_null() {
        let check: CheckDraft =
            serde_json::from_str(r#"{"type":"http","interval":"2s","timeout":1,"ttl":null}"#).unwrap();
        assert_eq!(check.interval, Some(Duration::from_secs(2)));
        assert_eq!(check.timeout, Some(Duration::from_secs(1)));
        assert_eq!(check.ttl, None);
        let fault = serde_json::from_str::<CheckDraft>(r#"{"type":"http","interval":"soon"}"#).unwrap_err();
        assert!(fault.to_string().contains("duration"), "{fault}");
        assert!(serde_json::from_str::<CheckDraft>(r#"{"type":"smtp"}"#).is_err());
        assert!(serde_json::from_str::<CheckDraft>(r#"{"type":"tcp","interva":"2s"}"#).is_err());
    }
}
