//! Request bodies as Go's decoder reads them: keys without regard to case, `null` as absent, durations as text
//! or nanoseconds, unknown fields refused where Consul refuses them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::duration;
use crate::schema;
use crate::state::model::{Check, Definition, Node, Pairs, Proxy, Service, ServiceAddress, Weights};

/// What was wrong, as Go says it (without the prefix an endpoint adds).
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

type Decoded<T> = Result<T, Malformed>;

/// What a value is called in errors. Numbers are given where a number was wanted, as Go does.
pub fn kind_of(value: &Value, wanted: &str) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if wanted.starts_with("int") || wanted.starts_with("uint") => {
            format!("number {number}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Where fields stand, for errors: Go names its own types in them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The struct that has the fields.
    pub owner: &'static str,
    /// Before the field's name, with a dot at its end.
    pub path: &'static str,
    /// Instead of the field's name, where Go has lost it.
    pub instead: &'static str,
    /// What should have been an object: `value of type structs.RegisterRequest`.
    pub whole: &'static str,
}

impl Place {
    pub fn mismatch(self, value: &Value, field: &str, kind: &str) -> Malformed {
        let Place { owner, path, instead, .. } = self;
        let field = if instead.is_empty() { field } else { instead };
        Malformed(format!(
            "json: cannot unmarshal {} into Go struct field {owner}.{path}{field} of type {kind}",
            kind_of(value, kind)
        ))
    }
}

/// Parses a body.
pub fn json(body: &[u8]) -> Decoded<Value> {
    super::go_json::parse(body).map_err(Malformed)
}

/// The fields of one object, taken one by one.
pub struct Fields {
    map: Map<String, Value>,
    place: Place,
}

impl Fields {
    pub fn new(value: Value) -> Decoded<Fields> {
        Fields::at(value, Place::default())
    }

    pub fn at(value: Value, place: Place) -> Decoded<Fields> {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => {
                let whole = if place.whole.is_empty() { "value of type object" } else { place.whole };
                let kind = kind_of(&other, "");
                return Err(Malformed(format!("json: cannot unmarshal {kind} into Go {whole}")));
            }
        };
        Ok(Fields { map, place })
    }

    /// Whether a field is there at all, be it `null`.
    pub fn has(&self, name: &str) -> bool {
        self.map.keys().any(|key| key.eq_ignore_ascii_case(name))
    }

    /// Takes all spellings of a field; the last that is not null counts.
    pub fn take(&mut self, names: &[&str]) -> Option<Value> {
        let keys: Vec<String> =
            self.map.keys().filter(|k| names.iter().any(|n| k.eq_ignore_ascii_case(n))).cloned().collect();
        let mut found = None;
        for key in keys {
            if let Some(value) = self.map.remove(&key).filter(|v| !v.is_null()) {
                found = Some(value);
            }
        }
        found
    }

    pub fn ignore(&mut self, names: &[&str]) {
        let _ = self.take(names);
    }

    pub fn put_back(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Unknown fields are an error.
    pub fn finish(self) -> Decoded<()> {
        match self.map.keys().next() {
            Some(key) => Err(Malformed(format!("json: unknown field {key:?}"))),
            None => Ok(()),
        }
    }

    pub fn text(&mut self, names: &[&str]) -> Decoded<String> {
        match self.take(names) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.place.mismatch(&other, names[0], "string")),
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
            Some(other) => Err(self.place.mismatch(&other, names[0], "bool")),
        }
    }

    pub fn number(&mut self, names: &[&str]) -> Decoded<Option<i64>> {
        match self.take(names) {
            None => Ok(None),
            Some(value) => {
                value.as_i64().map(Some).ok_or_else(|| self.place.mismatch(&value, names[0], "int"))
            }
        }
    }

    pub fn unsigned(&mut self, names: &[&str]) -> Decoded<u64> {
        match self.take(names) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| self.place.mismatch(&value, names[0], "uint64")),
        }
    }

    /// Go text or nanoseconds; a negative time counts as none, and what is neither text nor number is not looked at.
    pub fn duration(&mut self, names: &[&str]) -> Decoded<Option<Duration>> {
        match self.take(names) {
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => match text.strip_prefix('-').map(duration::parse) {
                Some(Ok(_)) => Ok(Some(Duration::ZERO)),
                _ => duration::parse(&text).map(Some).map_err(Malformed),
            },
            Some(Value::Number(number)) => {
                Ok(number.as_f64().map(|nanos| Duration::from_nanos(nanos.max(0.0) as u64)))
            }
            _ => Ok(None),
        }
    }

    /// The time between two things: none at all is no time, and a negative one is zero, which whoever uses it refuses.
    pub fn period(&mut self, names: &[&str]) -> Decoded<Option<Duration>> {
        let negative = self.map.iter().any(|(key, value)| {
            let below =
                value.as_f64().is_some_and(|n| n < 0.0) || value.as_str().is_some_and(|t| t.starts_with('-'));
            below && names.iter().any(|name| key.eq_ignore_ascii_case(name))
        });
        Ok(self.duration(names)?.filter(|time| negative || !time.is_zero()))
    }

    pub fn list(&mut self, names: &[&str]) -> Decoded<Option<Vec<Value>>> {
        self.list_of(names, "[]interface {}")
    }

    /// `kind` is Go's name of the list's type.
    pub fn list_of(&mut self, names: &[&str], kind: &str) -> Decoded<Option<Vec<Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(self.place.mismatch(&other, names[0], kind)),
        }
    }

    pub fn texts(&mut self, names: &[&str]) -> Decoded<Option<Vec<String>>> {
        self.texts_of(names, "string")
    }

    /// `kind` is Go's name of the items' type.
    pub fn texts_of(&mut self, names: &[&str], kind: &str) -> Decoded<Option<Vec<String>>> {
        let Some(values) = self.list_of(names, &format!("[]{kind}"))? else { return Ok(None) };
        let place = self.place;
        values.into_iter().map(|v| text_of(v, names[0], kind, place)).collect::<Decoded<Vec<_>>>().map(Some)
    }

    pub fn pairs(&mut self, names: &[&str]) -> Decoded<Pairs> {
        let Some(value) = self.take(names) else { return Ok(None) };
        let place = self.place;
        let Value::Object(map) = value else {
            return Err(place.mismatch(&value, names[0], "map[string]string"));
        };
        let pair = |(k, v)| Ok((k, text_of(v, names[0], "string", place)?));
        map.into_iter().map(pair).collect::<Decoded<_>>().map(Some)
    }

    /// The fields of an object inside; none when it is absent.
    pub fn nested(&mut self, names: &[&str]) -> Decoded<Fields> {
        Ok(Fields { map: self.object(names)?.unwrap_or_default(), place: Place::default() })
    }

    pub fn object(&mut self, names: &[&str]) -> Decoded<Option<Map<String, Value>>> {
        match self.take(names) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.place.mismatch(&other, names[0], "object")),
        }
    }
}

fn text_of(value: Value, field: &str, kind: &str, place: Place) -> Decoded<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(place.mismatch(&other, field, kind)),
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
        let whole = "struct field .TaggedAddresses of type structs.ServiceAddress";
        let mut fields = Fields::at(value, Place { whole, ..Place::default() })?;
        let address = fields.text(&["Address"])?;
        let port = fields.number(&["Port"])?.unwrap_or(0);
        fields.finish()?;
        all.insert(name, ServiceAddress { address, port });
    }
    Ok(Some(all).filter(|a| !a.is_empty()))
}

fn proxy(fields: &mut Fields) -> Decoded<Proxy> {
    let given = fields.object(&["Proxy"])?.unwrap_or_default();
    let mut faults = schema::Faults::default();
    let mut read = schema::read(given, schema::PROXY, "", &mut faults);
    if let Some(key) = faults.keys.first() {
        let name = key.rsplit('.').next().unwrap_or(key);
        return Err(Malformed(format!("json: unknown field {name:?}")));
    }
    if let Some(fault) = faults.values.into_iter().next() {
        return Err(Malformed(fault));
    }
    // what says nothing and what is absent are printed alike, so they are kept alike
    schema::strip(schema::PROXY, &mut read);
    Ok(Proxy { fields: read })
}

/// A service as the catalog and transactions take it: the name is in `Service`.
pub fn service(value: Value, place: Place) -> Decoded<Service> {
    let mut fields = Fields::at(value, place)?;
    let mut service = service_fields(&mut fields, "Service")?;
    // no weight at all is the default here, unlike in a registration with an agent
    if service.weights == (Weights { passing: 0, warning: 0 }) {
        service.weights = Weights::default();
    }
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

/// Only whether the service speaks the mesh's protocol itself is kept; a sidecar is a service of its own.
fn connect(fields: &mut Fields) -> Decoded<Map<String, Value>> {
    let given = fields.object(&["Connect"])?.unwrap_or_default();
    let native =
        given.into_iter().any(|(name, v)| name.eq_ignore_ascii_case("Native") && v == Value::Bool(true));
    Ok(native.then(|| ("Native".to_owned(), Value::Bool(true))).into_iter().collect())
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
        connect: connect(fields)?,
        create_index: 0,
        modify_index: 0,
    })
}

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

pub fn agent_check(value: Value, form: Form) -> Decoded<AgentCheck> {
    let (id_name, place) = match form {
        Form::Inside => ("CheckID", Place { instead: "Check", ..Place::default() }),
        Form::Alone => ("ID", Place::default()),
    };
    let mut fields = Fields::at(value, place)?;
    let id = fields.name(&[id_name])?;
    let args = fields.texts(&["ScriptArgs", "script_args", "Args"])?.unwrap_or_default();
    let docker = fields.text(&["DockerContainerID", "docker_container_id"])?;
    let script = fields.text(&["Script"])?;
    let check = AgentCheck {
        id,
        name: fields.name(&["Name"])?,
        notes: fields.text(&["Notes"])?,
        service_id: fields.name(&["ServiceID", "service_id"])?,
        status: fields.text(&["Status"])?,
        script: !args.is_empty() || !docker.is_empty() || !script.is_empty(),
        interval: fields.period(&["Interval"])?,
        timeout: fields.duration(&["Timeout"])?,
        ttl: fields.period(&["TTL"])?,
        deregister_after: fields
            .duration(&["DeregisterCriticalServiceAfter", "deregister_critical_service_after"])?,
        success_before_passing: count(fields.number(&["SuccessBeforePassing", "success_before_passing"])?),
        failures_before_critical: count(
            fields.number(&["FailuresBeforeCritical", "failures_before_critical"])?,
        ),
        output_max_size: fields.number(&["OutputMaxSize", "output_max_size"])?.unwrap_or(0),
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
    fields.ignore(&["Token", "Shell", "FailuresBeforeWarning", "TLSServerName", "Namespace", "Partition"]);
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
            assert!(nul(service(json(text), Place::default()).map(drop)), "{text}");
        }
        for text in [
            r#"{"Node":"a\u0000","CheckID":"c"}"#,
            r#"{"Node":"a","CheckID":"c\u0000"}"#,
            r#"{"Node":"a","CheckID":"c","ServiceID":"s\u0000"}"#,
        ] {
            assert!(nul(check(json(text), Times::Either).map(drop)), "{text}");
        }
        assert!(nul(node(json(r#"{"Node":"a\u0000"}"#), "dc1").map(drop)));
        assert!(nul(agent_check(json(r#"{"Name":"a\u0000","TTL":"10s"}"#), Form::Alone).map(drop)));
        let output = check(json(r#"{"Node":"a","CheckID":"c","Output":"\u0000"}"#), Times::Short).unwrap();
        assert_eq!(output.output, "\0", "a check may say what it likes");
    }
}
