//! `/v1/agent/`: services and checks registered with this agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, AgentCheck, Fields, Malformed};
use super::reply::{Handled, Reply};
use super::{Call, Server, Shape};
use crate::state::Command;
use crate::state::local::{LocalCheck, LocalService, Runner};
use crate::state::model::{Check, Proxy, Service, ServiceAddress, Status, Weights};

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A service as its agent shows it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentService {
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "ID")]
    id: String,
    service: String,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    port: i64,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tagged_addresses: Option<BTreeMap<String, ServiceAddress>>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<Proxy>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    connect: serde_json::Map<String, Value>,
}

impl From<&LocalService> for AgentService {
    fn from(local: &LocalService) -> AgentService {
        let service = local.service.clone();
        AgentService {
            proxy: (service.kind.ends_with("-proxy") || service.kind.ends_with("-gateway"))
                .then_some(service.proxy),
            kind: service.kind,
            id: service.id,
            service: service.service,
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            port: service.port,
            address: service.address,
            tagged_addresses: service.tagged_addresses,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            connect: service.connect,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WithHash {
    #[serde(flatten)]
    service: AgentService,
    content_hash: String,
}

impl Server {
    pub(super) fn agent_services(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let filter = self.filter(call, Shape::Service)?;
        let all: BTreeMap<String, AgentService> = state
            .local_services()
            .map(|s| (s.service.id.clone(), AgentService::from(&**s)))
            .filter(|(_, s)| filter.accepts(s))
            .collect();
        Ok(Reply::json(&all, call.pretty))
    }

    pub(super) fn agent_service(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let Some(local) = state.local_service(call.rest) else {
            return Err(Reply::not_found(&format!("unknown service ID: {}", call.rest)));
        };
        let service = AgentService::from(&**local);
        let encoded = super::json::compact(&service).unwrap_or_default();
        let content_hash = format!("{:x}", content_hash(&encoded));
        let reply = Reply::json(&WithHash { service, content_hash: content_hash.clone() }, call.pretty);
        Ok(reply.with_header("x-consul-contenthash", &content_hash))
    }

    pub(super) async fn agent_service_register(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let mut fields = decode::json(&call.body).and_then(Fields::new).map_err(failed)?;
        let mut service = decode::service_fields(&mut fields, "Name").map_err(failed)?;
        let one = fields.take(&["Check"]);
        let more = fields.list(&["Checks"]).map_err(failed)?.unwrap_or_default();
        fields.ignore(&["Token", "Namespace", "Partition", "Locality", "CreateIndex", "ModifyIndex"]);
        fields.finish().map_err(failed)?;
        self.same_datacenter(call)?;
        check_service(&service)?;
        finish_service(&mut service);
        let definitions: Vec<AgentCheck> = one
            .into_iter()
            .chain(more)
            .map(decode::agent_check)
            .filter(|c| !matches!(c, Ok(c) if c.is_empty()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let total = definitions.len();
        let checks = definitions
            .into_iter()
            .enumerate()
            .map(|(at, definition)| self.service_check(&service, definition, at, total))
            .collect::<Result<Vec<_>, _>>()?;
        let replace = call.query.get("replace-existing-checks");
        let armed: Vec<String> = checks.iter().map(|c| c.check.check_id.clone()).collect();
        self.engine
            .write(Command::AgentService {
                node: self.node_name().to_owned(),
                service: Box::new(LocalService { service }),
                checks,
                replace_checks: matches!(replace, Some("" | "true" | "1")),
            })
            .await?;
        self.checks_changed(&armed);
        Ok(Reply::ok())
    }

    fn service_check(
        &self,
        service: &Service,
        mut check: AgentCheck,
        at: usize,
        of: usize,
    ) -> Result<LocalCheck, Reply> {
        validate(&check, "Status for checks must 'passing', 'warning', 'critical'")?;
        if check.id.is_empty() {
            check.id = if of == 1 {
                format!("service:{}", service.id)
            } else {
                format!("service:{}:{}", service.id, at + 1)
            };
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.service);
        }
        check.service_id.clone_from(&service.id);
        Ok(self.local_check(check, Some(service)))
    }

    pub(super) fn local_check(&self, check: AgentCheck, service: Option<&Service>) -> LocalCheck {
        let interval = check.interval.unwrap_or_default().max(SHORTEST_INTERVAL);
        let timeout = check.timeout.filter(|t| !t.is_zero()).unwrap_or(DEFAULT_TIMEOUT);
        let (runner, kind) = if let Some(ttl) = check.ttl {
            (Runner::Ttl(ttl), "ttl")
        } else if !check.target.http.is_empty() {
            (Runner::Http { interval, timeout }, "http")
        } else if !check.target.tcp.is_empty() {
            (Runner::Tcp { interval, timeout }, "tcp")
        } else if !check.target.grpc.is_empty() {
            (Runner::Grpc { interval, timeout }, "grpc")
        } else {
            (Runner::Alias, "alias")
        };
        LocalCheck {
            check: Check {
                node: self.node_name().to_owned(),
                check_id: check.id,
                name: check.name,
                status: if check.status.is_empty() { "critical".to_owned() } else { check.status },
                notes: check.notes,
                output: String::new(),
                service_id: check.service_id,
                service_name: service.map(|s| s.service.clone()).unwrap_or_default(),
                service_tags: service.and_then(|s| s.tags.clone()),
                kind: kind.to_owned(),
                ..Check::default()
            },
            target: check.target,
            runner,
            deregister_after: check.deregister_after.filter(|d| !d.is_zero()),
            critical_since: None,
        }
    }

    pub(super) async fn agent_service_deregister(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing service ID"));
        }
        let command =
            Command::AgentServiceRemove { node: self.node_name().to_owned(), id: call.rest.to_owned() };
        self.engine.write(command).await?;
        self.checks_changed(&[]);
        Ok(Reply::ok())
    }

    pub(super) async fn agent_service_maintenance(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing service ID"));
        }
        let enable = enable_of(call)?;
        let state = self.engine.state();
        let Some(local) = state.local_service(call.rest) else {
            return Err(Reply::not_found(&format!("No service registered with ID {:?}", call.rest)));
        };
        self.maintenance(Some(&local.service), enable, call).await
    }

    pub(super) async fn agent_maintenance(&self, call: &Call<'_>) -> Handled {
        let enable = enable_of(call)?;
        self.maintenance(None, enable, call).await
    }

    async fn maintenance(&self, service: Option<&Service>, enable: bool, call: &Call<'_>) -> Handled {
        let node = self.node_name().to_owned();
        let reason = call.query.get("reason").unwrap_or_default();
        let check = Box::new(LocalCheck::maintenance(&node, service, reason));
        let command = if enable {
            Command::AgentCheck { node, check }
        } else {
            Command::AgentCheckRemove { node, id: check.check.check_id.clone() }
        };
        self.engine.write(command).await?;
        Ok(Reply::ok())
    }

    pub(super) fn agent_health(&self, call: &Call<'_>, by_name: bool) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::bad(if by_name { "Missing service Name" } else { "Missing serviceID" }));
        }
        super::agent_health::answer(&self.engine.state(), call, by_name)
    }
}

fn enable_of(call: &Call<'_>) -> Result<bool, Reply> {
    match call.query.get("enable") {
        None => Err(Reply::bad("Missing value for enable")),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(other) => Err(Reply::bad(&format!("Invalid value for enable: {other:?}"))),
    }
}

/// A stable digest of a definition; clients only compare it.
fn content_hash(encoded: &[u8]) -> u64 {
    encoded
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn validate(check: &AgentCheck, bad_status: &str) -> Result<(), Reply> {
    if !check.status.is_empty() && Status::parse(&check.status).is_none() {
        return Err(Reply::bad(bad_status));
    }
    if check.script {
        return Err(Reply::internal(
            "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true",
        ));
    }
    let invalid = |why: &str| Err(Reply::bad(&format!("Invalid check: {why}")));
    let probes =
        !(check.target.http.is_empty() && check.target.tcp.is_empty() && check.target.grpc.is_empty());
    let alias = !(check.target.alias_service.is_empty() && check.target.alias_node.is_empty());
    if check.interval.is_some() && check.ttl.is_some() {
        return invalid("Interval and TTL cannot both be specified");
    }
    if probes && check.interval.is_none() {
        return invalid("Interval must be > 0 for Script, HTTP, or TCP checks");
    }
    if !probes && !alias && check.ttl.is_none() {
        return invalid("TTL must be > 0 for TTL checks");
    }
    Ok(())
}

fn check_service(service: &Service) -> Result<(), Reply> {
    if service.service.is_empty() {
        return Err(Reply::bad("Missing service name"));
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Reply::bad("Invalid service address"));
    }
    check_meta(service)?;
    if service.weights.passing < 1 {
        return Err(Reply::bad("Invalid Weights: Passing must be greater than 0"));
    }
    if service.weights.warning < 0 {
        return Err(Reply::bad("Invalid Weights: Warning must be greater or equal than 0"));
    }
    if service.weights.passing > 65535 || service.weights.warning > 65535 {
        return Err(Reply::bad("Invalid Weights: Passing and Warning must be less or equal than 65535"));
    }
    Ok(())
}

fn check_meta(service: &Service) -> Result<(), Reply> {
    let meta = service.meta.iter().flatten();
    if meta.clone().count() > 64 {
        return Err(Reply::bad(
            "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs",
        ));
    }
    for (key, value) in meta {
        let why = if key.is_empty() {
            "Key cannot be blank"
        } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            "Key contains invalid characters"
        } else if key.len() > 128 {
            "Key is too long (limit: 128 characters)"
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use"
        } else if value.len() > 512 {
            "Value is too long (limit: 512 characters)"
        } else {
            continue;
        };
        let text = format!("Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}'): {why}");
        return Err(Reply::bad(&text));
    }
    Ok(())
}

/// What registration with an agent adds: addresses by family; empty lists count as absent.
fn finish_service(service: &mut Service) {
    service.tags = service.tags.take().filter(|t| !t.is_empty());
    service.meta = service.meta.take().filter(|m| !m.is_empty());
    let family = match service.address.parse() {
        Ok(IpAddr::V4(_)) => "ipv4",
        Ok(IpAddr::V6(_)) => "ipv6",
        Err(_) => return,
    };
    let all = service.tagged_addresses.get_or_insert_default();
    for scope in ["lan", "wan"] {
        all.entry(format!("{scope}_{family}"))
            .or_insert_with(|| ServiceAddress { address: service.address.clone(), port: service.port });
    }
}

/// Used by the health views of the agent.
pub(super) const WARNING_CODE: StatusCode = StatusCode::TOO_MANY_REQUESTS;
