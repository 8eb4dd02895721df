//! `/v1/connect/intentions` and `/v1/agent/connect/authorize`: who may talk to whom.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::decode::{self, Fields, Malformed};
use super::filter::fields;
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::state::intentions::{Intention, Side, WILDCARD};
use crate::state::{Command, Table};

const LONGEST_DESCRIPTION: usize = 512;
const MOST_META: usize = 64;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 512;

impl Server {
    pub(super) async fn intentions(&self, call: &Call<'_>) -> Handled {
        if *call.method == Method::POST {
            return self.intention_create(call).await;
        }
        let options = ReadOptions::parse(&call.query)?;
        let filter = self.read_filter(call, fields::INTENTION)?;
        let state = self.wait_table(&options, Table::Intentions).await;
        let all: Vec<&Intention> = state.intentions().into_iter().map(|i| &**i).collect();
        Ok(self.listing(call, &filter, &all).at(state.table_index(Table::Intentions)))
    }

    async fn intention_create(&self, call: &Call<'_>) -> Handled {
        let failed = |Malformed(why)| Reply::internal(&format!("Failed to decode request body: {why}"));
        let mut intention = decode_intention(&call.body).map_err(failed)?;
        self.same_datacenter(call)?;
        if !intention.id.is_empty() {
            return Err(Reply::internal("ID must be empty when creating a new intention"));
        }
        intention.id = uuid::Uuid::new_v4().to_string();
        self.intention_store(call, intention).await
    }

    async fn intention_store(&self, call: &Call<'_>, mut intention: Intention) -> Handled {
        check_intention(&intention)?;
        if let Some(twin) = self.engine.state().twin_of(&intention) {
            return Err(Reply::internal(&format!("duplicate intention found: {}", twin.told())));
        }
        let now = jiff::Timestamp::now().to_string();
        intention.created_at.clone_from(&now);
        intention.updated_at = now;
        intention.hash = hash_of(&intention);
        let id = intention.id.clone();
        self.engine.write(Command::IntentionSet(Box::new(intention))).await?;
        Ok(Reply::json(&json!({ "ID": id }), call.pretty))
    }

    pub(super) async fn intention(&self, call: &Call<'_>) -> Handled {
        // an update's body is looked at before its id
        let given = if *call.method == Method::PUT {
            let failed = |Malformed(why)| Reply::bad(&format!("Bad request: Request decode failed: {why}"));
            Some(decode_intention(&call.body).map_err(failed)?)
        } else {
            None
        };
        let unfit = if call.rest.len() != 36 {
            Some("UUID must be 36 characters")
        } else if uuid::Uuid::try_parse(call.rest).is_err() {
            Some("Invalid UUID")
        } else {
            None
        };
        if let Some(why) = unfit {
            let text = format!("failed intention lookup: index error: {why}");
            return Err(if *call.method == Method::GET {
                Reply::bad(&format!("Bad request: {text}"))
            } else {
                Reply::internal(&format!("Intention lookup failed: {text}"))
            });
        }
        let id = call.rest.to_lowercase();
        let state = self.engine.state();
        let known = state.intention(&id);
        match (given, call.method) {
            (Some(mut intention), _) => {
                if known.is_none() {
                    return Err(Reply::internal(&format!("Cannot modify non-existent intention: '{id}'")));
                }
                intention.id = id;
                self.intention_store(call, intention).await
            }
            (None, &Method::DELETE) => {
                if known.is_none() {
                    return Err(Reply::internal(&format!("Cannot delete non-existent intention: '{id}'")));
                }
                self.engine.write(Command::IntentionRemove { id }).await?;
                Ok(Reply::json(&true, call.pretty))
            }
            _ => match known {
                Some(intention) => Ok(Reply::json(&**intention, call.pretty)),
                None => Err(Reply::not_found("Intention not found")),
            },
        }
    }

    pub(super) fn intention_match(&self, call: &Call<'_>) -> Handled {
        let side = match single(call, "by")? {
            "source" => Side::Source,
            "destination" => Side::Destination,
            _ => return Err(Reply::internal("'by' parameter must be one of 'source' or 'destination'")),
        };
        if !call.query.has("name") {
            return Err(missing("name"));
        }
        self.same_datacenter(call)?;
        let state = self.engine.state();
        let mut answer: BTreeMap<&str, Option<Vec<&Intention>>> = BTreeMap::new();
        for name in call.query.all("name") {
            let all = state.matching_intentions(side, place("name", name)?);
            let all: Vec<&Intention> = all.into_iter().map(|intention| &**intention).collect();
            answer.insert(name, (!all.is_empty()).then_some(all));
        }
        Ok(Reply::json(&answer, call.pretty))
    }

    pub(super) fn intention_check(&self, call: &Call<'_>) -> Handled {
        let source = single(call, "source")?;
        let destination = single(call, "destination")?;
        let kind = call.query.get("source-type").unwrap_or("consul");
        // of another kind, it would be no name of a service
        let source = if kind == "consul" { place("source", source)? } else { ("", source) };
        let destination = place("destination", destination)?;
        self.same_datacenter(call)?;
        if kind != "consul" {
            return Err(Reply::internal(&format!("unsupported SourceType: {kind:?}")));
        }
        let state = self.engine.state();
        let decides = state.deciding_intention(source, destination);
        let allowed = decides.is_none_or(|intention| intention.action == "allow");
        Ok(Reply::json(&json!({ "Allowed": allowed }), call.pretty))
    }

    pub(super) fn connect_authorize(&self, call: &Call<'_>) -> Handled {
        let refused = |why: &str| Reply::bad(&format!("Bad request: {why}"));
        let failed = |Malformed(why)| refused(&format!("Request decode failed: {why}"));
        let mut fields = decode::json(&call.body).and_then(Fields::new).map_err(failed)?;
        let target = fields.text(&["Target"]).map_err(failed)?;
        let uri = fields.text(&["ClientCertURI"]).map_err(failed)?;
        fields.text(&["ClientCertSerial"]).map_err(failed)?;
        fields.ignore(&["Namespace"]);
        fields.finish().map_err(failed)?;
        if target.is_empty() {
            return Err(refused("Target service must be specified"));
        }
        let (ns, source) = match identity_of(&uri) {
            Some(Identity::Service(ns, name)) => (ns, name),
            Some(Identity::Other) => return Err(refused("ClientCertURI not a valid Service identifier")),
            None => return Err(refused("ClientCertURI not a valid Connect identifier")),
        };
        let state = self.engine.state();
        let (authorized, reason) = match state.deciding_intention((&ns, &source), ("default", &target)) {
            Some(intention) => {
                (intention.action == "allow", format!("Matched intention: {}", intention.told()))
            }
            None => (true, "ACLs disabled, access is allowed by default".to_owned()),
        };
        // in this order, which a map of values would lose
        #[derive(serde::Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            authorized: bool,
            reason: String,
        }
        let reply = Reply::json(&Answer { authorized, reason }, call.pretty);
        Ok(self.asked.mark(format!("intentions {target:?}"), reply))
    }
}

fn missing(name: &str) -> Reply {
    Reply::internal(&format!("required query parameter '{name}' not set"))
}

/// A parameter given twice counts as not given.
fn single<'a>(call: &'a Call<'_>, name: &'a str) -> Result<&'a str, Reply> {
    let mut all = call.query.all(name);
    match (all.next(), all.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(missing(name)),
    }
}

/// Namespace and name: `web` is `default/web`.
fn place<'a>(what: &str, given: &'a str) -> Result<(&'a str, &'a str), Reply> {
    match given.split_once('/') {
        None => Ok(("default", given)),
        Some((_, name)) if name.contains('/') => {
            let text = format!("{what} {given:?} is invalid: input can contain at most one '/'");
            Err(Reply::internal(&text))
        }
        Some(pair) => Ok(pair),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Namespace and name, of `spiffe://<domain>/ns/<ns>/dc/<dc>/svc/<service>`.
    Service(String, String),
    /// An agent's, or that of whoever signs.
    Other,
}

/// Whom a SPIFFE id names.
fn identity_of(uri: &str) -> Option<Identity> {
    let rest = uri.strip_prefix("spiffe://")?;
    let parts: Vec<&str> = rest.split('/').collect();
    let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|t| t.into_owned());
    let full = parts.iter().all(|part| !part.is_empty());
    match parts[..] {
        [_, "ns", ns, "dc", _, "svc", service] if full => {
            Some(Identity::Service(decode(ns)?, decode(service)?))
        }
        [_, "agent", "client", "dc", _, "id", _] if full => Some(Identity::Other),
        [domain] if domain.find('.').is_some_and(|at| at > 0) => Some(Identity::Other),
        _ => None,
    }
}

/// Digest of what an intention says; clients only compare it.
fn hash_of(intention: &Intention) -> String {
    let meta: Vec<_> = intention.meta.iter().collect();
    let said = format!(
        "{:?}",
        (
            &intention.id,
            &intention.description,
            &intention.source_ns,
            &intention.source_name,
            &intention.destination_ns,
            &intention.destination_name,
            &intention.source_type,
            &intention.action,
            (&intention.default_addr, intention.default_port),
            meta,
        )
    );
    STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, said.as_bytes()))
}

fn check_intention(intention: &Intention) -> Result<(), Reply> {
    let mut faults = Vec::new();
    for (what, name) in [("Source", &intention.source_name), ("Destination", &intention.destination_name)] {
        if name.is_empty() {
            faults.push(format!("{what}Name must be set"));
        }
    }
    check_wildcards("Source", &intention.source_ns, &intention.source_name, &mut faults);
    check_wildcards("Destination", &intention.destination_ns, &intention.destination_name, &mut faults);
    if intention.description.len() > LONGEST_DESCRIPTION {
        faults.push(format!("Description exceeds maximum length {LONGEST_DESCRIPTION}"));
    }
    let meta = &intention.meta;
    if meta.len() > MOST_META {
        faults.push(format!("Meta exceeds maximum element count {MOST_META}"));
    }
    for (key, value) in meta {
        if key.len() > LONGEST_KEY {
            faults.push(format!("Meta key {key:?} exceeds maximum length {LONGEST_KEY}"));
        }
        if value.len() > LONGEST_VALUE {
            faults.push(format!("Meta value for key {key:?} exceeds maximum length {LONGEST_VALUE}"));
        }
    }
    if !matches!(intention.action.as_str(), "allow" | "deny") {
        faults.push("Action must be set to 'allow' or 'deny'".to_owned());
    }
    if intention.source_type != "consul" {
        faults.push("SourceType must be set to 'consul'".to_owned());
    }
    if faults.is_empty() { Ok(()) } else { Err(Reply::internal(&super::several(&faults))) }
}

/// A wildcard stands alone, and behind one nothing is exact.
fn check_wildcards(what: &str, ns: &str, name: &str, faults: &mut Vec<String>) {
    let partial = |text: &str| text.contains(WILDCARD) && text != WILDCARD;
    for (part, text) in [("NS", ns), ("Name", name)] {
        if partial(text) {
            faults.push(format!("{what}{part}: wildcard character '*' cannot be used with partial values"));
        }
    }
    if ns == WILDCARD && name != WILDCARD {
        faults.push(format!("{what}Name: exact value cannot follow wildcard namespace"));
    }
}

fn decode_intention(body: &[u8]) -> Result<Intention, Malformed> {
    let mut fields = Fields::new(decode::json(body)?)?;
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let intention = Intention {
        id: fields.text(&["ID"])?,
        description: fields.text(&["Description"])?,
        source_ns: or(fields.text(&["SourceNS"])?, "default"),
        source_name: fields.text(&["SourceName"])?,
        destination_ns: or(fields.text(&["DestinationNS"])?, "default"),
        destination_name: fields.text(&["DestinationName"])?,
        source_type: or(fields.text(&["SourceType"])?, "consul"),
        action: fields.text(&["Action"])?,
        default_addr: fields.text(&["DefaultAddr"])?,
        default_port: fields.number(&["DefaultPort"])?.unwrap_or(0),
        meta: fields.pairs(&["Meta"])?.unwrap_or_default(),
        ..Intention::default()
    };
    fields.ignore(&["Precedence", "CreatedAt", "UpdatedAt", "Hash", "CreateIndex", "ModifyIndex"]);
    fields.finish()?;
    Ok(intention)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_from_their_identities() {
        let read = |uri: &str| identity_of(uri);
        assert_eq!(
            read("spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/a%20b"),
            Some(Identity::Service("default".to_owned(), "a b".to_owned()))
        );
        for other in ["spiffe://x.consul", "spiffe://x.consul/agent/client/dc/dc1/id/y"] {
            assert_eq!(read(other), Some(Identity::Other), "{other}");
        }
        for bad in ["", "abc", "spiffe://x", "spiffe://x/ns/a/dc/b/svc/", "https://x/ns/a/dc/b/svc/c"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
