//! Checks: as the catalog has them, and as they are registered with the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::fields::text_of;
use super::{Decoded, Fields, Place};
use crate::duration;
use crate::state::model::{Check, Definition};

/// Which spellings of a definition's times are read: the catalog does not know `IntervalDuration` and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Short,
    Either,
}

/// A check as the catalog and transactions take it.
pub fn check(value: Value, times: Times) -> Decoded<Check> {
    let mut fields = Fields::new(value)?;
    let given = fields.take(&["Definition"]);
    let definition = given.map(|given| definition(given, times)).transpose()?.unwrap_or_default();
    let name = fields.name(&["Name"])?;
    let id = fields.name(&["CheckID"])?;
    let check = Check {
        node: fields.name(&["Node"])?,
        check_id: if id.is_empty() { name.clone() } else { id },
        name,
        status: fields.text(&["Status"])?,
        notes: fields.text(&["Notes"])?,
        output: fields.text(&["Output"])?,
        service_id: fields.name(&["ServiceID"])?,
        service_name: fields.text(&["ServiceName"])?,
        service_tags: fields.texts(&["ServiceTags"])?,
        kind: fields.text(&["Type"])?,
        definition,
        create_index: fields.unsigned(&["CreateIndex"])?,
        modify_index: fields.unsigned(&["ModifyIndex"])?,
    };
    fields.ignore(&["Namespace", "Partition", "ExposedPort", "Interval", "Timeout", "PeerName"]);
    fields.finish()?;
    Ok(check)
}

fn definition(value: Value, times: Times) -> Decoded<Definition> {
    let mut fields = Fields::new(value)?;
    if times == Times::Short {
        fields.ignore(&["IntervalDuration", "TimeoutDuration", "DeregisterCriticalServiceAfterDuration"]);
    }
    let text = |d: Option<Duration>| d.filter(|d| !d.is_zero()).map(duration::format).unwrap_or_default();
    let definition = Definition {
        interval: text(fields.duration(&["Interval", "IntervalDuration"])?),
        timeout: text(fields.duration(&["Timeout", "TimeoutDuration"])?),
        deregister_critical_service_after: text(
            fields.duration(&["DeregisterCriticalServiceAfter", "DeregisterCriticalServiceAfterDuration"])?,
        ),
        http: fields.text(&["HTTP"])?,
        tls_skip_verify: fields.flag(&["TLSSkipVerify"])?,
        header: header(&mut fields)?,
        method: fields.text(&["Method"])?,
        body: fields.text(&["Body"])?,
        tcp: fields.text(&["TCP"])?,
        grpc: fields.text(&["GRPC"])?,
        grpc_use_tls: fields.flag(&["GRPCUseTLS"])?,
        alias_node: fields.text(&["AliasNode"])?,
        alias_service: fields.text(&["AliasService"])?,
        ttl: text(fields.duration(&["TTL"])?),
    };
    fields.ignore(&[
        "ScriptArgs",
        "DockerContainerID",
        "Shell",
        "TLSServerName",
        "OutputMaxSize",
        "UDP",
        "H2PING",
        "H2PingUseTLS",
        "OSService",
        "DisableRedirects",
    ]);
    fields.finish()?;
    Ok(definition)
}

fn header(fields: &mut Fields) -> Decoded<BTreeMap<String, Vec<String>>> {
    let mut all = BTreeMap::new();
    let place = fields.place;
    for (name, value) in fields.object(&["Header"])?.unwrap_or_default() {
        let Value::Array(values) = value else { return Err(place.mismatch(&value, "Header", "[]string")) };
        let item = |v| text_of(v, "Header", "string", place);
        let values = values.into_iter().map(item).collect::<Decoded<Vec<_>>>()?;
        all.insert(name, values);
    }
    Ok(all)
}

/// A check as it is registered with the agent.
#[derive(Debug, Default)]
pub struct AgentCheck {
    pub id: String,
    pub name: String,
    pub notes: String,
    pub service_id: String,
    pub status: String,
    pub script: bool,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub ttl: Option<Duration>,
    pub deregister_after: Option<Duration>,
    /// Results of a kind in a row before the status turns; 0 and 1: at once.
    pub success_before_passing: u32,
    pub failures_before_critical: u32,
    /// Longest output kept, bytes; negative is refused.
    pub output_max_size: i64,
    pub target: Definition,
}

impl AgentCheck {
    /// `{}` and `null` mean no check.
    pub fn is_empty(&self) -> bool {
        let named = [&self.id, &self.name, &self.notes, &self.service_id, &self.status];
        named.iter().all(|t| t.is_empty())
            && !self.script
            && self.interval.is_none()
            && self.timeout.is_none()
            && self.ttl.is_none()
            && self.target == Definition::default()
    }
}

fn count(given: Option<i64>) -> u32 {
    u32::try_from(given.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
}

/// How a check comes: inside a service's registration, where its id is `CheckID`, or by itself, where it is `ID`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Inside,
    Alone,
}

const DEREGISTER: [&str; 2] = ["DeregisterCriticalServiceAfter", "deregister_critical_service_after"];

pub fn agent_check(value: Value, form: Form) -> Decoded<AgentCheck> {
    let (id_name, place) = match form {
        Form::Inside => ("CheckID", Place { instead: "Check", ..Place::default() }),
        Form::Alone => ("ID", Place::default()),
    };
    let mut fields = Fields::at(value, place)?;
    for time in [&["Interval"][..], &["Timeout"], &["TTL"], &DEREGISTER] {
        fields.refuse_empty(time)?;
    }
    let id = fields.name(&[id_name])?;
    let args = fields.texts(&["ScriptArgs", "script_args", "Args"])?.unwrap_or_default();
    let docker = fields.text(&["DockerContainerID", "docker_container_id"])?;
    let check = AgentCheck {
        id,
        name: fields.name(&["Name"])?,
        notes: fields.text(&["Notes"])?,
        service_id: fields.name(&["ServiceID", "service_id"])?,
        status: fields.text(&["Status"])?,
        script: !args.is_empty() || !docker.is_empty(),
        interval: fields.period(&["Interval"])?,
        timeout: fields.duration(&["Timeout"])?,
        ttl: fields.period(&["TTL"])?,
        deregister_after: fields.duration(&DEREGISTER)?,
        success_before_passing: count(fields.number(&["SuccessBeforePassing"])?),
        failures_before_critical: count(fields.number(&["FailuresBeforeCritical"])?),
        output_max_size: fields.number(&["OutputMaxSize"])?.unwrap_or(0),
        target: Definition {
            http: fields.text(&["HTTP"])?,
            tls_skip_verify: fields.flag(&["TLSSkipVerify", "tls_skip_verify"])?,
            header: header(&mut fields)?,
            method: fields.text(&["Method"])?,
            body: fields.text(&["Body"])?,
            tcp: fields.text(&["TCP"])?,
            grpc: fields.text(&["GRPC"])?,
            grpc_use_tls: fields.flag(&["GRPCUseTLS"])?,
            alias_node: fields.text(&["AliasNode"])?,
            alias_service: fields.text(&["AliasService"])?,
            ..Definition::default()
        },
    };
    fields.ignore(&["Token", "Shell", "FailuresBeforeWarning", "TLSServerName", "Namespace", "Partition"]);
    fields.finish()?;
    Ok(check)
}
