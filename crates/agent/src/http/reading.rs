//! What reads have in common: who may ask, for whom, what is waited for, and how an answer is made of what is found.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::filter::Filter;
use super::filter::fields::Fields;
use super::query::{Query, ReadOptions};
use super::reply::{Handled, Reply};
use super::{Call, Server, unusable_filter};
use crate::engine::watch::Interest;
use crate::state::{State, Table};

impl Server {
    /// With a token set, every request must carry it.
    pub(super) fn authorize(&self, headers: &HeaderMap, query: &Query) -> Result<(), Reply> {
        let Some(token) = &self.token else { return Ok(()) };
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let bearer =
            text("authorization").and_then(|v| v.strip_prefix("Bearer ").or(v.strip_prefix("bearer ")));
        let given = query.filled("token").or(text("x-consul-token")).or(bearer).unwrap_or_default();
        if token.matches(given.as_bytes()) {
            Ok(())
        } else {
            Err(Reply::text(StatusCode::FORBIDDEN, "Permission denied"))
        }
    }

    pub(super) fn own_datacenter(&self, named: &str) -> Result<(), Reply> {
        if named.is_empty() || named == self.identity.datacenter {
            Ok(())
        } else {
            Err(Reply::internal("No path to datacenter"))
        }
    }

    pub(super) fn same_datacenter(&self, call: &Call<'_>) -> Result<(), Reply> {
        self.own_datacenter(call.query.get("dc").unwrap_or_default())
    }

    pub(super) fn datacenter(&self) -> &str {
        &self.identity.datacenter
    }

    pub(super) fn node_name(&self) -> &str {
        &self.identity.node
    }

    /// The version a read answers from, after blocking if it asked for that.
    pub(super) async fn wait(
        &self,
        options: &ReadOptions,
        interest: impl FnOnce() -> Interest,
        index_of: impl Fn(&State) -> u64,
    ) -> Arc<State> {
        if options.index == 0 {
            return self.engine.state();
        }
        self.engine.wait(&interest(), options.index, options.wait, index_of).await
    }

    /// Starts the time of TTL checks anew and lets the runners look at what is registered.
    pub(super) fn checks_changed(&self, ids: &[String]) {
        let state = self.engine.state();
        for id in ids {
            if let Some(crate::state::local::Runner::Ttl(ttl)) = state.local_check(id).map(|c| &c.runner) {
                self.timers.arm_check(id, *ttl);
            }
        }
        self.runners.send_modify(|n| *n += 1);
    }

    pub(super) fn filter(&self, call: &Call<'_>, fields: Fields) -> Result<Filter, Reply> {
        match call.query.filled("filter") {
            None => Ok(Filter::All),
            Some(text) => Filter::parse(text, fields).map_err(|why| Reply::internal(&unusable_filter(&why))),
        }
    }

    /// The answer to a read whose body is made of the question and of what moves `index`, and of nothing else: it is
    /// encoded once per change and shared by all who ask or wait for it.
    pub(super) fn shared(&self, call: &Call<'_>, index: u64, make: impl FnOnce() -> Handled) -> Handled {
        self.shared_body(call, index, make).map(Reply::encoded)
    }

    /// The same, of which only the body is wanted.
    pub(super) fn shared_body(
        &self,
        call: &Call<'_>,
        index: u64,
        make: impl FnOnce() -> Handled,
    ) -> Result<Bytes, Reply> {
        let encode = || match make() {
            Ok(reply) if reply.status == StatusCode::OK => Ok(reply.body),
            Ok(reply) | Err(reply) => Err(reply),
        };
        let mut question = call.question();
        if call.query.has("near") {
            // what is near moves without what is asked for
            question
                .push_str(itoa::Buffer::new().format(self.engine.state().table_index(Table::Coordinates)));
        }
        self.cache.get_or_encode(&question, index, encode)
    }

    /// The same for a read that the catalog answers: a refusal has its headers.
    pub(super) fn read_filter(&self, call: &Call<'_>, fields: Fields) -> Result<Filter, Reply> {
        self.filter(call, fields).map_err(Reply::without_answer)
    }

    /// A list, with the request's filter.
    pub(super) fn listing<T: serde::Serialize>(
        &self,
        call: &Call<'_>,
        filter: &Filter,
        items: &[T],
    ) -> Reply {
        if matches!(filter, Filter::All) {
            return Reply::json(items, call.pretty);
        }
        let chosen: Vec<&T> = items.iter().filter(|i| filter.accepts(*i)).collect();
        Reply::json(&chosen, call.pretty)
    }
}

impl Call<'_> {
    /// The question without what does not change its answer. Parts have their lengths before them: they come from the
    /// client and may hold any character, and no two questions may share an answer.
    pub(super) fn question(&self) -> String {
        let mut key = String::with_capacity(64);
        let mut part = |text: &str| {
            key.push_str(itoa::Buffer::new().format(text.len()));
            key.push(':');
            key.push_str(text);
        };
        part(itoa::Buffer::new().format(self.endpoint as usize));
        part(self.rest);
        for (name, value) in self.query.pairs() {
            if !ASKING.contains(&name) {
                part(name);
                part(value);
            }
        }
        key
    }
}

/// Parameters that say how to ask, not for what.
const ASKING: [&str; 10] =
    ["index", "wait", "stale", "consistent", "leader", "max_stale", "cached", "token", "dc", "hash"];

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::route::Endpoint as E;
    use super::*;

    fn question(endpoint: E, rest: &str, query: &str) -> String {
        let (method, headers) = (Method::GET, HeaderMap::new());
        let (query, body) = (Query::parse(query), Bytes::new());
        Call { endpoint, method: &method, headers: &headers, query, rest, body, pretty: false }.question()
    }

    #[test]
    fn no_two_questions_share_an_answer() {
        let all = [
            question(E::HealthService, "web", ""),
            question(E::CatalogService, "web", ""),
            question(E::HealthService, "we", "b"),
            question(E::HealthService, "web", "passing"),
            question(E::HealthService, "web", "pretty"),
            question(E::HealthService, "web", "tag=a&tag=b"),
            question(E::HealthService, "web", "tag=b&tag=a"),
            question(E::HealthService, "web", "tag=a%001:tag1:b"),
            question(E::HealthService, "web", "tag=a3:tag1:b"),
            question(E::HealthService, "web", "tag=a&node-meta=b:c"),
            question(E::HealthService, "web", "tag=a&node-meta=b&c"),
            question(E::HealthService, "web", "filter=Node.Node==a"),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }

    #[test]
    fn how_one_asks_makes_no_other_question() {
        let plain = question(E::HealthService, "web", "passing");
        assert_eq!(question(E::HealthService, "web", "index=7&passing&wait=5m&stale&token=x&dc=dc1"), plain);
    }
}
