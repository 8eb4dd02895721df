//! `/v1/query`: prepared queries.

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields, Malformed, Place};
use super::health::{ServiceEntry, raw_entries};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::duration;
use crate::engine::watch::Interest;
use crate::state::model::{Node, Service};
use crate::state::queries::{DnsOptions, Failover, PreparedQuery, ServiceQuery, Template, template};
use crate::state::{Command, State, Table, Topic};

/// What Consul shows instead of a token.
const HIDDEN_TOKEN: &str = "<hidden>";

/// What a path below `/v1/query/` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Definition,
    Execution,
    Explanation,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Executed<'a> {
    service: &'a str,
    nodes: Vec<ServiceEntry<'a>>,
    #[serde(rename = "DNS")]
    dns: &'a DnsOptions,
    datacenter: &'a str,
    failovers: u32,
    #[serde(flatten)]
    read: ReadPart,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Explained<'a> {
    query: &'a PreparedQuery,
    #[serde(flatten)]
    read: ReadPart,
}

/// What these two answers repeat of the headers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReadPart {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
}

impl ReadPart {
    fn of(options: &ReadOptions) -> ReadPart {
        ReadPart {
            index: 0,
            last_contact: 0,
            known_leader: true,
            consistency_level: options.consistency.as_str(),
        }
    }
}

/// A path that ends right behind `/v1/query` asks for a query of that name.
fn asked_for(rest: &str) -> (&str, Asked) {
    for (end, asked) in [("/execute", Asked::Execution), ("/explain", Asked::Explanation)] {
        if let Some(id) = rest.strip_suffix(end) {
            return (id, asked);
        }
        if rest == &end[1..] {
            return (rest, asked);
        }
    }
    (rest, Asked::Definition)
}

/// As Go reads one.
pub(super) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn limit_of(call: &Call<'_>) -> Result<i64, Reply> {
    let Some(text) = call.query.filled("limit") else { return Ok(0) };
    text.parse()
        .map_err(|_| Reply::internal(&format!("Bad limit: strconv.Atoi: parsing {text:?}: invalid syntax")))
}

fn connect_of(call: &Call<'_>) -> Result<bool, Reply> {
    let Some(text) = call.query.filled("connect") else { return Ok(false) };
    go_bool(text).ok_or_else(|| {
        let why = format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
        Reply::internal(&format!("Error parsing 'connect' value: {why}"))
    })
}

impl Server {
    pub(super) async fn queries(&self, call: &Call<'_>) -> Handled {
        if *call.method == Method::POST {
            return self.query_create(call).await;
        }
        let options = ReadOptions::parse(&call.query)?;
        let state = self.wait_table(&options, Table::Queries).await;
        let all: Vec<&PreparedQuery> = state.queries().map(|query| &**query).collect();
        let index = state.table_index(Table::Queries);
        Ok(Reply::json(&all, call.pretty).at(index).effective(options.consistency))
    }

    /// This path answers for its methods itself, and not quite like the others.
    pub(super) async fn query(&self, call: &Call<'_>) -> Handled {
        let (id, asked) = asked_for(call.rest);
        let methods = if asked == Asked::Definition { "GET,PUT,DELETE" } else { "GET" };
        match (asked, call.method.as_str()) {
            (_, "OPTIONS") => {
                let allow = format!("OPTIONS,{methods}");
                Ok(Reply::json(&serde_json::json!({}), call.pretty).with_header("allow", &allow))
            }
            (Asked::Definition, "GET") => self.query_get(call, id).await,
            (Asked::Definition, "PUT") => self.query_update(call, id).await,
            (Asked::Definition, "DELETE") => self.query_delete(call, id).await,
            (Asked::Execution, "GET") => self.query_execute(call, id),
            (Asked::Explanation, "GET") => self.query_explain(call, id),
            (_, method) => {
                let text = format!("method {method} not allowed");
                Err(Reply::text(StatusCode::METHOD_NOT_ALLOWED, &text).with_header("allow", methods))
            }
        }
    }

    async fn query_create(&self, call: &Call<'_>) -> Handled {
        let mut query = decode_query(&call.body)?;
        self.same_datacenter(call)?;
        if !query.id.is_empty() {
            return Err(Reply::internal("ID must be empty when creating a new prepared query"));
        }
        query.id = uuid::Uuid::new_v4().to_string();
        let id = query.id.clone();
        self.query_store(query).await?;
        Ok(Reply::json(&serde_json::json!({ "ID": id }), call.pretty))
    }

    async fn query_store(&self, query: PreparedQuery) -> Result<(), Reply> {
        check_query(&query).map_err(|why| Reply::internal(&format!("Invalid prepared query: {why}")))?;
        if query.is_template() {
            template::check(&query)
                .map_err(|why| Reply::internal(&format!("failed compiling template: {why}")))?;
        }
        if !query.session.is_empty() {
            unfit_id(&query.session).map_or(Ok(()), |why| {
                Err(Reply::internal(&format!("invalid session: index error: {why}")))
            })?;
        }
        self.engine.write(Command::QuerySet(Box::new(query))).await?;
        Ok(())
    }

    async fn query_get(&self, call: &Call<'_>, id: &str) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if let Some(why) = unfit_id(id) {
            let text = format!("failed prepared query lookup: index error: {why}");
            return Err(Reply::internal(&text).without_answer());
        }
        let id = id.to_lowercase();
        let index_of = |state: &State| match state.query(&id) {
            Some(query) => query.modify_index,
            None => state.table_index(Table::Queries),
        };
        let interest = || Interest::One(Topic::Table(Table::Queries));
        let state = self.wait(&options, interest, index_of).await;
        let Some(query) = state.query(&id) else { return Err(Reply::not_found("Query not found")) };
        Ok(Reply::json(&[&**query], call.pretty).at(index_of(&state)).effective(options.consistency))
    }

    /// The stored query that is to be changed.
    fn stored_query(&self, id: &str) -> Result<String, Reply> {
        if let Some(why) = unfit_id(id) {
            let text =
                format!("Prepared Query lookup failed: failed prepared query lookup: index error: {why}");
            return Err(Reply::internal(&text));
        }
        let id = id.to_lowercase();
        match self.engine.state().query(&id) {
            Some(_) => Ok(id),
            None => Err(Reply::internal(&format!("Cannot modify non-existent prepared query: '{id}'"))),
        }
    }

    async fn query_update(&self, call: &Call<'_>, id: &str) -> Handled {
        let mut query =
            if call.body.is_empty() { PreparedQuery::default() } else { decode_query(&call.body)? };
        self.same_datacenter(call)?;
        query.id = self.stored_query(id)?;
        self.query_store(query).await?;
        Ok(Reply::ok())
    }

    async fn query_delete(&self, call: &Call<'_>, id: &str) -> Handled {
        self.same_datacenter(call)?;
        let id = self.stored_query(id)?;
        self.engine.write(Command::QueryRemove { id }).await?;
        Ok(Reply::ok())
    }

    fn resolved(&self, state: &State, text: &str) -> Result<PreparedQuery, Reply> {
        let found = state.resolve_query(text).map_err(|why| Reply::internal(&why).without_answer())?;
        found.ok_or_else(|| Reply::not_found("Query not found"))
    }

    fn query_explain(&self, call: &Call<'_>, id: &str) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        limit_of(call)?;
        let query = self.resolved(&self.engine.state(), id)?;
        let answer = Explained { query: &query, read: ReadPart::of(&options) };
        Ok(Reply::json(&answer, call.pretty).at(1).effective(options.consistency))
    }

    fn query_execute(&self, call: &Call<'_>, id: &str) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let (limit, asked_connect) = (limit_of(call)?, connect_of(call)?);
        let state = self.engine.state();
        let query = self.resolved(&state, id)?;
        let connect = query.service.connect || asked_connect;
        let mut nodes = raw_entries(&state, &query.service.service, connect);
        nodes.retain(|entry| chosen(&query.service, entry));
        fastrand::shuffle(&mut nodes);
        let near = call.query.filled("near").unwrap_or(&query.service.near);
        if !near.is_empty() {
            let near = if near == "_agent" { self.node_name() } else { near };
            nodes.sort_by_key(|entry| !entry.node.node.eq_ignore_ascii_case(near));
        }
        if let Ok(limit @ 1..) = usize::try_from(limit) {
            nodes.truncate(limit);
        }
        let answer = Executed {
            service: &query.service.service,
            nodes,
            dns: &query.dns,
            datacenter: self.datacenter(),
            failovers: 0,
            read: ReadPart::of(&options),
        };
        let reply = Reply::json(&answer, call.pretty).at(1).effective(options.consistency);
        self.cached(call, || format!("query {id:?} {connect} {limit}"), reply)
    }
}

/// Consul's refusal of what cannot be an id.
fn unfit_id(id: &str) -> Option<&'static str> {
    if id.len() != 36 {
        Some("UUID must be 36 characters")
    } else if uuid::Uuid::try_parse(id).is_err() {
        Some("Invalid UUID")
    } else {
        None
    }
}

fn chosen(query: &ServiceQuery, entry: &ServiceEntry<'_>) -> bool {
    let ignored = |id: &String| query.ignore_check_ids.iter().flatten().any(|ignored| ignored == id);
    let healthy = entry
        .checks
        .iter()
        .filter(|check| !ignored(&check.check_id))
        .all(|check| check.status != "critical" && (!query.only_passing || check.status == "passing"));
    healthy && tagged(query, &entry.service) && has_meta(query, entry.node, &entry.service)
}

fn tagged(query: &ServiceQuery, service: &Service) -> bool {
    let has = |tag: &str| service.tags.iter().flatten().any(|t| t.to_lowercase() == tag.to_lowercase());
    query.tags.iter().flatten().all(|tag| match tag.strip_prefix('!') {
        Some(excluded) => !has(excluded),
        None => has(tag),
    })
}

fn has_meta(query: &ServiceQuery, node: &Node, service: &Service) -> bool {
    let node_has = |(k, v): (&String, &String)| node.meta.as_ref().and_then(|m| m.get(k)) == Some(v);
    let service_has = |(k, v): (&String, &String)| service.meta.as_ref().and_then(|m| m.get(k)) == Some(v);
    query.node_meta.iter().flatten().all(node_has) && query.service_meta.iter().flatten().all(service_has)
}

fn check_query(query: &PreparedQuery) -> Result<(), String> {
    if query.name.is_empty() && query.session.is_empty() && !query.is_template() {
        return Err("Must be bound to a session".to_owned());
    }
    if query.token == HIDDEN_TOKEN {
        return Err(format!(
            "Bad Token '{HIDDEN_TOKEN}', it looks like a query definition with a redacted token was submitted"
        ));
    }
    if query.service.service.is_empty() {
        return Err("Must provide a Service name to query".to_owned());
    }
    if query.service.failover.nearest_n < 0 {
        return Err(format!("Bad NearestN '{}', must be >= 0", query.service.failover.nearest_n));
    }
    // what Consul itself says of nodes may be asked for, and of services anything
    let own = |key: &&String| !key.starts_with("consul-");
    let plain = query.service.node_meta.iter().flatten().filter(|(key, _)| own(key));
    super::agent::check_pairs(&plain.map(|(key, value)| (key.clone(), value.clone())).collect())?;
    let ttl = query.dns.ttl.as_str();
    if ttl.is_empty() {
        return Ok(());
    }
    if let Some(Ok(negative)) = ttl.strip_prefix('-').map(duration::parse) {
        return Err(format!("DNS TTL '-{}', must be >=0", negative.as_nanos()));
    }
    duration::parse(ttl).map(drop).map_err(|why| format!("Bad DNS TTL '{ttl}': {why}"))
}

fn decode_query(body: &[u8]) -> Result<PreparedQuery, Reply> {
    let failed = |Malformed(why)| Reply::bad(&format!("Request decode failed: {why}"));
    decode::json(body).and_then(decoded).map_err(failed)
}

fn decoded(value: Value) -> Result<PreparedQuery, Malformed> {
    let place = Place { owner: "PreparedQuery", ..Place::default() };
    let mut fields = Fields::at(value, place)?;
    let mut template = fields.nested(&["Template"])?;
    let mut service = fields.nested(&["Service"])?;
    let mut failover = service.nested(&["Failover"])?;
    let mut dns = fields.nested(&["DNS"])?;
    let query = PreparedQuery {
        id: fields.text(&["ID"])?,
        name: fields.text(&["Name"])?,
        session: fields.text(&["Session"])?,
        token: fields.text(&["Token"])?,
        template: Template {
            kind: template.text(&["Type"])?,
            regexp: template.text(&["Regexp"])?,
            remove_empty_tags: template.flag(&["RemoveEmptyTags"])?,
        },
        service: ServiceQuery {
            service: service.text(&["Service"])?,
            failover: Failover {
                nearest_n: failover.number(&["NearestN"])?.unwrap_or(0),
                datacenters: failover.texts(&["Datacenters"])?,
            },
            only_passing: service.flag(&["OnlyPassing"])?,
            ignore_check_ids: service.texts(&["IgnoreCheckIDs"])?,
            near: service.text(&["Near"])?,
            tags: service.texts(&["Tags"])?,
            node_meta: service.pairs(&["NodeMeta"])?,
            service_meta: service.pairs(&["ServiceMeta"])?,
            connect: service.flag(&["Connect"])?,
        },
        dns: DnsOptions { ttl: dns.text(&["TTL"])? },
        create_index: 0,
        modify_index: 0,
    };
    fields.ignore(&["CreateIndex", "ModifyIndex"]);
    for nested in [template, failover, service, dns, fields] {
        nested.finish()?;
    }
    Ok(query)
}
