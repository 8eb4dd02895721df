//! What plugins that send things elsewhere have in common: URLs, the queue record, forbidden Lua.

use crate::load::Scope;
use crate::node::{Map, Node};
use crate::schema::Check::{Between, OneOfInts};
use crate::schema::Literal::Int;
use crate::schema::{Check, Field, integer, number};

pub(super) const QUEUE: &[Field] = &queue(1);
pub(super) const SPAN_QUEUE: &[Field] = &queue(200);

const fn queue(batch: i64) -> [Field; 8] {
    [
        integer("max_batch_size").or(Int(batch)).required().check(&[Between(1.0, 1_000_000.0)]),
        number("max_coalescing_delay").or(Int(1)).required().check(&[Between(0.0, 3600.0)]),
        integer("max_entries").or(Int(10_000)).required().check(&[Between(1.0, 1_000_000.0)]),
        integer("max_bytes"),
        number("max_retry_time").or(Int(60)).required(),
        number("initial_retry_delay").or(HUNDREDTH).required().check(DELAY),
        number("max_retry_delay").or(Int(60)).required().check(DELAY),
        integer("concurrency_limit").or(Int(1)).required().check(&[OneOfInts(&[-1, 1])]),
    ]
}

const HUNDREDTH: crate::schema::Literal = crate::schema::Literal::Number(0.01);
const DELAY: &[Check] = &[Between(0.001, 1_000_000.0)];

/// Milliseconds Kong takes for a timeout.
pub(super) const TIMEOUT: &[Check] = &[Between(0.0, 2_147_483_646.0)];

/// `http://` or `https://` with a host.
pub(super) fn url(node: &Node) -> Result<(), String> {
    let text = node.as_str().unwrap_or_default();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err(if text.contains("://") {
            "unsupported scheme in url: expected http or https".to_owned()
        } else {
            "missing scheme in url".to_owned()
        });
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    if name.is_empty() {
        return Err("missing host in url".to_owned());
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("invalid port in url".to_owned());
    }
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err("invalid url".to_owned());
    }
    Ok(())
}

/// The old name of a member of `queue`, which wins over the new one unless it has Kong's old default.
pub(super) fn old_queue_field(
    config: &mut Map,
    scope: &mut Scope<'_, '_>,
    old: &str,
    new: &str,
    old_default: f64,
) {
    let Some(value) = config.shift_remove(old) else { return };
    match value.as_f64() {
        None if value.is_null() => {}
        None => scope.fault(old, "expected a number"),
        Some(number) => {
            scope.supported(old);
            let queue = config.entry("queue".to_owned()).or_insert_with(|| Node::Map(Map::new()));
            if queue.is_null() {
                *queue = Node::Map(Map::new());
            }
            // Something other than a record is reported by the table.
            if let Node::Map(queue) = queue
                && (number != old_default || !queue.contains_key(new))
            {
                queue.insert(new.to_owned(), value);
            }
        }
    }
}

/// Kong sends any number of batches at a time.
pub(super) fn many_at_once(config: &Map, scope: &mut Scope<'_, '_>) {
    let queue = config.get("queue").and_then(Node::as_map);
    let limit = queue.and_then(|queue| queue.get("concurrency_limit")).and_then(Node::as_int);
    if limit == Some(-1) {
        scope.remark_in("queue", "concurrency_limit", "-1 means sixteen batches at a time, not any number");
    }
}

/// Where log fields would be computed by Lua code.
pub(super) fn no_lua(config: &Map, scope: &mut Scope<'_, '_>) {
    let empty = match config.get("custom_fields_by_lua") {
        None | Some(Node::Null) => true,
        Some(Node::Map(map)) => map.is_empty(),
        Some(Node::Seq(list)) => list.is_empty(),
        Some(_) => false,
    };
    if !empty {
        scope.fault("custom_fields_by_lua", LUA);
    }
}

const LUA: &str = "custom_fields_by_lua is Lua code, which this gateway cannot run";
