//! Request bodies as Go's decoder reads them: keys without regard to case, `null` as absent, durations as text
//! or nanoseconds, unknown fields refused where Consul refuses them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::duration;
use crate::state::model::{Check, Definition, Node, Pairs, Proxy, Service, ServiceAddress, Weights};

/// What was wrong, as Go says it (without the prefix an endpoint adds).
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

type Decoded<T> = Result<T, Malformed>;

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, field: &str, kind: &str) -> Malformed {
    Malformed(format!(
        "json: cannot unmarshal {} into Go struct field .{field} of type {kind}",
        kind_of(value)
    ))
}

/// Parses a body; the errors are close to Go's.
pub fn json(body: &[u8]) -> Decoded<Value> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Malformed("EOF".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => Malformed("unexpected EOF".to_owned()),
        _ => {
            let first = body.iter().find(|b| !b.is_ascii_whitespace()).copied().unwrap_or(b' ') as char;
            let looks_like_value = matches!(first, '{' | '[' | '"' | '-' | '0'..='9' | 't' | 'f' | 'n');
            let second =
                body.iter().skip_while(|b| b.is_ascii_whitespace()).nth(1).copied().unwrap_or(b' ') as char;
            if first == '{' && second.is_ascii_alphabetic() {
                Malformed(format!("invalid character '{second}' looking for beginning of object key string"))
            } else if looks_like_value {
                Malformed(format!("invalid JSON: {error}"))
            } else {
                Malformed(format!("invalid character '{first}' looking for beginning of value"))
            }
        }
    })
}

/// The fields of one object, taken one by one.
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn new(value: Value) -> Decoded<Fields> {
        match value {
            Value::Object(map) => Ok(Fields(map)),
            Value::Null => Ok(Fields(Map::new())),
            other => Err(Malformed(format!(
                "json: cannot unmarshal {} into Go value of type object",
                kind_of(&other)
            ))),
        }
    }

    /// Takes all spellings of a field; the last that is not null counts.
    pub fn take(&mut self, names: &[&str]) -> Option<Value> {
        let keys: Vec<String> =
            self.0.keys().filter(|k| names.iter().any(|n| k.eq_ignore_ascii_case(n))).cloned().collect();
        let mut found = None;
        for key in keys {
            if let Some(value) = self.0.remove(&key).filter(|v| !v.is_null()) {
                found = Some(value);
            }
        }
        found
    }

    pub fn ignore(&mut self, names: &[&str]) {
        let _ = self.take(names);
    }

    /// Unknown fields are an error.
    pub fn finish(self) -> Decoded<()> {
        match self.0.keys().next() {
            Some(key) => Err(Malformed(format!("json: unknown field {key:?}"))),
            None => Ok(()),
        }
    }

    pub fn text(&mut self, names: &[&str]) -> Decoded<String> {
        match self.take(names) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(mismatch(&other, names[0], "string")),
        }
    }

    /// Text that names something: the store joins names with NUL, so none may hold one.
    pub fn name(&mut self, names: &[&str]) -> Decoded<String> {
        let text = self.text(names)?;
        if text.contains('\0') {
            return Err(Malformed(format!("{} must not contain NUL", names[0])));
        }
        Ok(text)
    }

    pub fn flag(&mut self, names: &[&str]) -> Decoded<bool> {
        match self.take(names) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(mismatch(&other, names[0], "bool")),
        }
    }

    pub fn number(&mut self, names: &[&str]) -> Decoded<Option<i64>> {
        match self.take(names) {
            None => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| mismatch(&value, names[0], "int")),
        }
    }

    pub fn unsigned(&mut self, names: &[&str]) -> Decoded<u64> {
        match self.take(names) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| mismatch(&value, names[0], "uint64")),
        }
    }

    /// Go text or nanoseconds.
    pub fn duration(&mut self, names: &[&str]) -> Decoded<Option<Duration>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => duration::parse(&text).map(Some).map_err(Malformed),
            Some(value) => {
                let nanos = value.as_f64().ok_or_else(|| mismatch(&value, names[0], "time.Duration"))?;
                Ok(Some(Duration::from_nanos(nanos.max(0.0) as u64)))
            }
        }
    }

    pub fn list(&mut self, names: &[&str]) -> Decoded<Option<Vec<Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(mismatch(&other, names[0], "[]")),
        }
    }

    pub fn texts(&mut self, names: &[&str]) -> Decoded<Option<Vec<String>>> {
        let Some(values) = self.list(names)? else { return Ok(None) };
        values.into_iter().map(|v| text_of(v, names[0])).collect::<Decoded<Vec<_>>>().map(Some)
    }

    pub fn pairs(&mut self, names: &[&str]) -> Decoded<Pairs> {
        let Some(value) = self.take(names) else { return Ok(None) };
        let Value::Object(map) = value else { return Err(mismatch(&value, names[0], "map[string]string")) };
        map.into_iter().map(|(k, v)| Ok((k, text_of(v, names[0])?))).collect::<Decoded<_>>().map(Some)
    }

    pub fn object(&mut self, names: &[&str]) -> Decoded<Option<Map<String, Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(mismatch(&other, names[0], "object")),
        }
    }
}

fn text_of(value: Value, field: &str) -> Decoded<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(mismatch(&other, field, "string")),
    }
}

/// A node of a transaction, or of a registration once its own names are mapped.
pub fn node(value: Value, datacenter: &str) -> Decoded<Node> {
    let mut fields = Fields::new(value)?;
    let node = Node {
        id: fields.name(&["ID"])?,
        node: fields.name(&["Node"])?,
        address: fields.text(&["Address"])?,
        datacenter: Some(fields.text(&["Datacenter"])?)
            .filter(|d| !d.is_empty())
            .unwrap_or(datacenter.to_owned()),
        tagged_addresses: fields.pairs(&["TaggedAddresses"])?,
        meta: fields.pairs(&["Meta"])?,
        create_index: fields.unsigned(&["CreateIndex"])?,
        modify_index: fields.unsigned(&["ModifyIndex"])?,
    };
    fields.ignore(&["Partition", "PeerName"]);
    fields.finish()?;
    Ok(node)
}

fn weights(fields: &mut Fields) -> Decoded<Option<Weights>> {
    let Some(map) = fields.object(&["Weights"])? else { return Ok(None) };
    let mut fields = Fields::new(Value::Object(map))?;
    let passing = fields.number(&["Passing"])?.unwrap_or(0);
    let warning = fields.number(&["Warning"])?.unwrap_or(0);
    fields.finish()?;
    Ok(Some(Weights { passing, warning }))
}

fn tagged(fields: &mut Fields) -> Decoded<Option<BTreeMap<String, ServiceAddress>>> {
    let Some(map) = fields.object(&["TaggedAddresses", "tagged_addresses"])? else { return Ok(None) };
    let mut all = BTreeMap::new();
    for (name, value) in map {
        let mut fields = Fields::new(value)?;
        let address = fields.text(&["Address"])?;
        let port = fields.number(&["Port"])?.unwrap_or(0);
        fields.finish()?;
        all.insert(name, ServiceAddress { address, port });
    }
    Ok(Some(all).filter(|a| !a.is_empty()))
}

fn proxy(fields: &mut Fields) -> Decoded<Proxy> {
    let mut given = BTreeMap::new();
    let mut proxy = Proxy::default();
    for (name, value) in fields.object(&["Proxy"])?.unwrap_or_default() {
        let named = |value: Value| if let Value::Object(map) = value { map } else { Map::new() };
        if name.eq_ignore_ascii_case("MeshGateway") {
            proxy.mesh_gateway = named(value);
        } else if name.eq_ignore_ascii_case("Expose") {
            proxy.expose = named(value);
        } else if !value.is_null() {
            given.insert(name, value);
        }
    }
    proxy.given = given;
    Ok(proxy)
}

/// A service as the catalog and transactions take it: the name is in `Service`.
pub fn service(value: Value) -> Decoded<Service> {
    let mut fields = Fields::new(value)?;
    let mut service = service_fields(&mut fields, "Service")?;
    service.create_index = fields.unsigned(&["CreateIndex"])?;
    service.modify_index = fields.unsigned(&["ModifyIndex"])?;
    fields.ignore(&[
        "LocallyRegisteredAsSidecar",
        "Namespace",
        "Partition",
        "Datacenter",
        "ContentHash",
        "PeerName",
        "Locality",
    ]);
    fields.finish()?;
    Ok(service)
}

/// The fields every form of a service has.
pub fn service_fields(fields: &mut Fields, name: &str) -> Decoded<Service> {
    let service = fields.name(&[name])?;
    let id = fields.name(&["ID"])?;
    Ok(Service {
        kind: fields.text(&["Kind"])?,
        id: if id.is_empty() { service.clone() } else { id },
        service,
        tags: fields.texts(&["Tags"])?,
        address: fields.text(&["Address"])?,
        tagged_addresses: tagged(fields)?,
        meta: fields.pairs(&["Meta"])?,
        port: fields.number(&["Port"])?.unwrap_or(0),
        socket_path: fields.text(&["SocketPath"])?,
        weights: weights(fields)?.unwrap_or_default(),
        enable_tag_override: fields.flag(&["EnableTagOverride", "enable_tag_override"])?,
        proxy: proxy(fields)?,
        connect: fields
            .object(&["Connect"])?
            .unwrap_or_default()
            .into_iter()
            .filter(|(_, v)| !v.is_null() && *v != Value::Bool(false))
            .collect(),
        create_index: 0,
        modify_index: 0,
    })
}

/// A check as the catalog and transactions take it.
pub fn check(value: Value) -> Decoded<Check> {
    let mut fields = Fields::new(value)?;
    let definition = fields.take(&["Definition"]).map(definition).transpose()?.unwrap_or_default();
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

fn definition(value: Value) -> Decoded<Definition> {
    let mut fields = Fields::new(value)?;
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
    for (name, value) in fields.object(&["Header"])?.unwrap_or_default() {
        let Value::Array(values) = value else { return Err(mismatch(&value, "Header", "[]string")) };
        let values = values.into_iter().map(|v| text_of(v, "Header")).collect::<Decoded<Vec<_>>>()?;
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

pub fn agent_check(value: Value) -> Decoded<AgentCheck> {
    let mut fields = Fields::new(value)?;
    let id = fields.name(&["CheckID"])?;
    let other = fields.name(&["ID"])?;
    let args = fields.texts(&["ScriptArgs", "script_args", "Args"])?.unwrap_or_default();
    let docker = fields.text(&["DockerContainerID", "docker_container_id"])?;
    let script = fields.text(&["Script"])?;
    let check = AgentCheck {
        id: if id.is_empty() { other } else { id },
        name: fields.name(&["Name"])?,
        notes: fields.text(&["Notes"])?,
        service_id: fields.name(&["ServiceID", "service_id"])?,
        status: fields.text(&["Status"])?,
        script: !args.is_empty() || !docker.is_empty() || !script.is_empty(),
        interval: fields.duration(&["Interval"])?.filter(|d| !d.is_zero()),
        timeout: fields.duration(&["Timeout"])?,
        ttl: fields.duration(&["TTL"])?.filter(|d| !d.is_zero()),
        deregister_after: fields
            .duration(&["DeregisterCriticalServiceAfter", "deregister_critical_service_after"])?,
        target: Definition {
            http: fields.text(&["HTTP"])?,
            tls_skip_verify: fields.flag(&["TLSSkipVerify", "tls_skip_verify"])?,
            header: header(&mut fields)?,
            method: fields.text(&["Method"])?,
            body: fields.text(&["Body"])?,
            tcp: fields.text(&["TCP"])?,
            grpc: fields.text(&["GRPC"])?,
            grpc_use_tls: fields.flag(&["GRPCUseTLS", "grpc_use_tls"])?,
            alias_node: fields.text(&["AliasNode", "alias_node"])?,
            alias_service: fields.text(&["AliasService", "alias_service"])?,
            ..Definition::default()
        },
    };
    fields.ignore(&[
        "Token",
        "Shell",
        "SuccessBeforePassing",
        "FailuresBeforeCritical",
        "FailuresBeforeWarning",
        "OutputMaxSize",
        "TLSServerName",
        "Namespace",
        "Partition",
        "success_before_passing",
        "failures_before_critical",
        "output_max_size",
    ]);
    fields.finish()?;
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_nul() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let nul = |result: Decoded<()>| result.unwrap_err().0.contains("NUL");
        for text in [r#"{"Service":"a\u0000b"}"#, r#"{"Service":"a","ID":"\u0000"}"#] {
            assert!(nul(service(json(text)).map(drop)), "{text}");
        }
        for text in [
            r#"{"Node":"a\u0000","CheckID":"c"}"#,
            r#"{"Node":"a","CheckID":"c\u0000"}"#,
            r#"{"Node":"a","CheckID":"c","ServiceID":"s\u0000"}"#,
        ] {
            assert!(nul(check(json(text)).map(drop)), "{text}");
        }
        assert!(nul(node(json(r#"{"Node":"a\u0000"}"#), "dc1").map(drop)));
        assert!(nul(agent_check(json(r#"{"Name":"a\u0000","TTL":"10s"}"#)).map(drop)));
        let output = check(json(r#"{"Node":"a","CheckID":"c","Output":"\u0000"}"#)).unwrap();
        assert_eq!(output.output, "\0", "a check may say what it likes");
    }
}
