//! `/v1/agent/`: services and checks registered with this agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, AgentCheck, Fields, Form, Malformed, Place};
use super::filter::fields;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server, sidecar};
use crate::engine::watch::Interest;
use crate::schema;
use crate::state::local::{LocalCheck, LocalService, Runner};
use crate::state::model::{Check, Proxy, Service, ServiceAddress, Status, Weights};
use crate::state::{Command, Table, Topic};

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Go's type has no name: it is spelled out in errors.
const WHOLE: Place = Place {
    owner: "",
    path: "",
    instead: "",
    whole: "value of type struct { EnableTagOverrideSnake bool \"json:\\\"enable_tag_override\\\"\"; TaggedAddressesSnake map[string]structs.ServiceAddress \"json:\\\"tagged_addresses\\\"\"; *structs.Alias }",
};

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
    /// Only `agent/service/:id` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "proxy_of_agent")]
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
            content_hash: None,
            connect: service.connect,
        }
    }
}

fn proxy_of_agent<S: serde::Serializer>(proxy: &Option<Proxy>, to: S) -> Result<S::Ok, S::Error> {
    proxy.as_ref().map(|proxy| schema::Ordered(schema::AGENT_PROXY, &proxy.fields)).serialize(to)
}

impl Server {
    pub(super) fn agent_services(&self, call: &Call<'_>) -> Handled {
        let state = self.engine.state();
        let filter = self.filter(call, fields::SERVICE)?;
        let all: BTreeMap<String, AgentService> = state
            .local_services()
            .map(|s| (s.service.id.clone(), AgentService::from(&**s)))
            .filter(|(_, s)| filter.accepts(s))
            .collect();
        Ok(Reply::json(&all, call.pretty))
    }

    /// With `hash`, waits while the definition is still the one with that hash.
    pub(super) async fn agent_service(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::waiting(&call.query)?;
        let deadline = tokio::time::Instant::now() + options.wait;
        let known = call.query.filled("hash");
        loop {
            let state = self.engine.state();
            let Some(local) = state.local_service(call.rest) else {
                return Err(Reply::not_found(&format!("unknown service ID: {}", call.rest)));
            };
            let mut service = AgentService::from(&**local);
            let encoded = super::json::compact(&service).unwrap_or_default();
            let hash = format!("{:x}", content_hash(&encoded));
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if known != Some(hash.as_str()) || left.is_zero() || self.engine.stopping() {
                service.content_hash = Some(hash.clone());
                return Ok(Reply::json(&service, call.pretty).with_header("x-consul-contenthash", &hash));
            }
            let interest = Interest::One(Topic::Table(Table::Services));
            let seen = state.table_index(Table::Services);
            self.engine.wait(&interest, seen, left, |s| s.table_index(Table::Services)).await;
        }
    }

    pub(super) async fn agent_service_register(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
        let mut fields =
            decode::json(&call.body).and_then(|value| Fields::at(value, WHOLE)).map_err(failed)?;
        let nested = sidecar::nested(&mut fields).map_err(failed)?;
        let mut service = decode::service_fields(&mut fields, "Name").map_err(failed)?;
        let one = fields.take(&["Check"]);
        let more = fields.list_of(&["Checks"], "structs.CheckTypes").map_err(failed)?.unwrap_or_default();
        fields.ignore(&["Token", "Namespace", "Partition", "Locality", "CreateIndex", "ModifyIndex"]);
        fields.finish().map_err(failed)?;
        self.same_datacenter(call)?;
        check_service(&service)?;
        sidecar::check_kind(&service).map_err(|why| Reply::bad(&why))?;
        finish_service(&mut service);
        let sidecar = match nested {
            Some(nested) => Some(self.sidecar(&service, nested)?),
            None => None,
        };
        // an empty one is none where there can be only one
        let one = one.map(|value| decode::agent_check(value, Form::Inside));
        let one = one.into_iter().filter(|c| !matches!(c, Ok(c) if c.is_empty()));
        let more = more.into_iter().map(|value| decode::agent_check(value, Form::Inside));
        let definitions: Vec<AgentCheck> = one.chain(more).collect::<Result<_, _>>().map_err(failed)?;
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
                replace_checks: matches!(replace, Some("" | "true")),
            })
            .await?;
        self.checks_changed(&armed);
        if let Some((service, mut checks)) = sidecar {
            let state = self.engine.state();
            for local in checks.iter_mut().filter(|local| local.runner == Runner::Alias) {
                // what it stands for is there only now
                let check = &mut local.check;
                (check.status, check.output) =
                    crate::runners::mirrored(&state, self.node_name(), &local.target, &check.check_id);
            }
            let command = Command::AgentService {
                node: self.node_name().to_owned(),
                service: Box::new(LocalService { service }),
                checks,
                replace_checks: true,
            };
            self.engine.write(command).await?;
            self.checks_changed(&[]);
        }
        Ok(Reply::ok())
    }

    pub(super) fn service_check(
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
        let (runner, kind) = if let Some(ttl) = check.ttl.filter(|ttl| !ttl.is_zero()) {
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
        // an alias knows at once what it stands for
        let (status, output) = match runner {
            Runner::Alias if check.status.is_empty() => {
                crate::runners::mirrored(&self.engine.state(), self.node_name(), &check.target, &check.id)
            }
            _ if check.status.is_empty() => ("critical".to_owned(), String::new()),
            _ => (check.status, String::new()),
        };
        LocalCheck {
            check: Check {
                node: self.node_name().to_owned(),
                check_id: check.id,
                name: check.name,
                status,
                notes: check.notes,
                output,
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
            success_before_passing: check.success_before_passing,
            failures_before_critical: check.failures_before_critical,
            output_max_size: usize::try_from(check.output_max_size).unwrap_or(0),
        }
    }

    pub(super) async fn agent_service_deregister(&self, call: &Call<'_>) -> Handled {
        if call.rest.is_empty() {
            return Err(Reply::internal("ServiceID missing"));
        }
        let sidecar = self.sidecar_of(call.rest);
        for id in std::iter::once(call.rest.to_owned()).chain(sidecar) {
            let command = Command::AgentServiceRemove { node: self.node_name().to_owned(), id };
            self.engine.write(command).await?;
        }
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
        if enable && self.engine.state().local_check(&check.check.check_id).is_some() {
            // the first reason stays
            return Ok(Reply::ok());
        }
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
            return Err(Reply::internal(if by_name {
                "Bad request: Missing service Name"
            } else {
                "Bad request: Missing serviceID"
            }));
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
    if check.output_max_size < 0 {
        return invalid("MaxOutputMaxSize must be positive");
    }
    let given = |time: Option<Duration>| time.is_some_and(|time| !time.is_zero());
    if given(check.interval) && given(check.ttl) {
        return invalid("Interval and TTL cannot both be specified");
    }
    if probes && !given(check.interval) {
        return invalid("Interval must be > 0 for Script, HTTP, or TCP checks");
    }
    if !probes && !alias && !given(check.ttl) {
        return invalid("TTL must be > 0 for TTL checks");
    }
    Ok(())
}

pub(super) fn check_service(service: &Service) -> Result<(), Reply> {
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
        return Err(Reply::bad("Invalid Weights: DNS Weight must be between 0 and 65535"));
    }
    Ok(())
}

fn check_meta(service: &Service) -> Result<(), Reply> {
    let Some(meta) = &service.meta else { return Ok(()) };
    check_pairs(meta).map_err(|why| Reply::bad(&format!("Invalid Service Meta: {why}")))
}

/// What all metadata must keep to.
pub(super) fn check_pairs(meta: &BTreeMap<String, String>) -> Result<(), String> {
    if meta.len() > 64 {
        return Err("Node metadata cannot contain more than 64 key/value pairs".to_owned());
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
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {why}"));
    }
    Ok(())
}

/// What registration with an agent adds: addresses by family, what upstreams are; empty lists count as absent.
pub(super) fn finish_service(service: &mut Service) {
    service.tags = service.tags.take().filter(|t| !t.is_empty());
    service.meta = service.meta.take().filter(|m| !m.is_empty());
    let upstreams = service.proxy.fields.get_mut("Upstreams").and_then(Value::as_array_mut);
    for upstream in upstreams.into_iter().flatten().filter_map(Value::as_object_mut) {
        upstream.entry("DestinationType").or_insert_with(|| Value::from("service"));
    }
    let family = match service.address.parse().map(|address: IpAddr| address.to_canonical()) {
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
