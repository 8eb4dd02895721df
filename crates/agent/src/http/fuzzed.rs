//! The HTTP surface as the fuzz targets reach it.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::filter::Filter;
use super::*;
use crate::state::State;
use crate::state::command::{Command, Registration};
use crate::state::model::Node;

/// The first byte of an input chooses the way in, the rest is the body.
const WAYS: &[&str] = &[
    "/v1/agent/service/register",
    "/v1/agent/check/register",
    "/v1/agent/check/update/c1",
    "/v1/catalog/register",
    "/v1/catalog/deregister",
    "/v1/session/create",
    "/v1/txn",
    "/v1/kv/a?flags=7",
    "/v1/agent/service/register?replace-existing-checks",
    "/v1/config",
    "/v1/snapshot",
    "/v1/coordinate/update",
];
/// A server is used for so many inputs, so that they meet what others left.
const INPUTS: usize = 100;

struct Fuzzed {
    server: Server,
    runtime: tokio::runtime::Runtime,
    inputs: usize,
}

thread_local! {
    static FUZZED: RefCell<Option<Fuzzed>> = const { RefCell::new(None) };
}

impl Fuzzed {
    fn new() -> Option<Fuzzed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let engine = Arc::new(Engine::start(State::default(), None, u64::MAX).ok()?);
        let identity = Identity {
            node: "plinth".to_owned(),
            id: "11111111-2222-3333-4444-555555555555".to_owned(),
            meta: Default::default(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: 8500,
            datacenter: "dc1".to_owned(),
            started: String::new(),
        };
        let node = Node { node: "plinth".to_owned(), address: "127.0.0.1".to_owned(), ..Node::default() };
        let own = Registration { node, skip_node_update: false, service: None, checks: Vec::new() };
        runtime.block_on(engine.write(Command::Register(Box::new(own)))).ok()?;
        let server = Server::new(engine, Arc::default(), identity, None, 8 << 20, true);
        Some(Fuzzed { server, runtime, inputs: 0 })
    }

    /// Status and whether the answer is JSON where it says so.
    fn ask(&mut self, path: &str, body: &[u8]) -> Option<StatusCode> {
        let request = Request::put(path).body(()).ok()?;
        let (parts, ()) = request.into_parts();
        let head = Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers };
        let answered = self.server.answer(head, Bytes::copy_from_slice(body));
        let reply = self.runtime.block_on(answered).unwrap_or_else(|early| early);
        Some(reply.status)
    }
}

/// A body for one of the endpoints that take one. What it leaves behind must survive a snapshot.
pub fn http_body(data: &[u8]) {
    let Some((way, body)) = data.split_first() else { return };
    let way = WAYS[usize::from(*way) % WAYS.len()];
    FUZZED.with_borrow_mut(|fuzzed| {
        if fuzzed.as_ref().is_none_or(|f| f.inputs >= INPUTS) {
            *fuzzed = Fuzzed::new();
        }
        let Some(fuzzed) = fuzzed else { return };
        fuzzed.inputs += 1;
        let status = fuzzed.ask(way, body);
        if status == Some(StatusCode::OK) {
            let state = fuzzed.server.engine.state();
            let again = crate::fuzzing::written_again(&state);
            assert_eq!(again.as_ref().err(), None, "{way}");
            let Ok(again) = again else { return };
            let other = again.records().zip(state.records()).find(|(read, stored)| read != stored);
            assert_eq!(other, None, "{way}: read and stored");
            assert_eq!(again.records().count(), state.records().count(), "{way}");
        }
    });
}

/// A filter over each kind of list.
pub fn filter_expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let item = serde_json::json!({
        "ID": "1", "Node": {"Node": "n", "Meta": {"a": "b"}}, "Service": {"Service": "web", "Tags": ["v1", "v2"], "Port": 80},
        "Checks": [{"Status": "passing", "ServiceTags": []}], "ServiceTags": ["v1"], "Meta": {"k": "v"}, "Tags": null, "Port": 80,
    });
    use filter::fields::{CATALOG_SERVICE, CHECK, ENTRY, INTENTION, NODE, SERVICE};
    for fields in [ENTRY, CHECK, NODE, CATALOG_SERVICE, SERVICE, INTENTION] {
        if let Ok(filter) = Filter::parse(text, fields) {
            filter.accepts(&item);
        }
    }
}
