//! `/v1/health/`.

use bytes::Bytes;
use serde::Serialize;

use super::catalog::{Choice, instances, listed};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server, Shape};
use crate::engine::watch::Interest;
use crate::state::model::{Check, Instance, Node, Service};
use crate::state::{State, Table, Topic};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceEntry<'a> {
    node: &'a Node,
    service: Service,
    checks: Vec<Check>,
}

/// The check with its tags as a list.
pub(super) fn listed_check(check: &Check) -> Check {
    let mut check = check.clone();
    check.service_tags.get_or_insert_default();
    check
}

impl Server {
    pub(super) async fn health_service(&self, call: &Call<'_>, connect: bool) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let name = call.rest;
        if name.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let passing = passing_only(call)?;
        let choice = Choice::of(&call.query);
        let (state, index) = self.wait_service(&options, name, connect).await;
        let plain = !connect && !call.pretty && !call.query.has("filter") && !call.query.has("near");
        if plain {
            let key = cache_key(name, passing, &choice);
            let body = self.cache.get_or_encode(&key, index, || encode(&state, name, passing, &choice));
            if let Some(body) = body {
                return Ok(Reply::encoded(body).at(index).effective(options.consistency));
            }
        }
        let mut found = entries(&state, name, connect, passing, &choice);
        self.nearest_first(call, &mut found, |e| &e.node.node);
        Ok(self.listing(call, Shape::Entry, &found)?.at(index).effective(options.consistency))
    }

    pub(super) async fn health_node(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing node name"));
        }
        let state = self.wait_table(&options, Table::Checks).await;
        let checks: Vec<Check> = state.node_checks(call.rest).into_iter().map(|c| listed_check(c)).collect();
        Ok(self
            .listing(call, Shape::Check, &checks)?
            .at(state.table_index(Table::Checks))
            .effective(options.consistency))
    }

    pub(super) async fn health_checks(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let (state, index) = self.wait_service(&options, call.rest, false).await;
        let found = instances(&state, call.rest, false);
        let mut checks: Vec<&Check> = found
            .iter()
            .filter(|(node, _)| choice.takes_node(node))
            .flat_map(|(_, i)| state.checks_of(&i.node, &i.service.id))
            .map(|c| &**c)
            .collect();
        checks.sort_by(|a, b| (&a.node, &a.check_id).cmp(&(&b.node, &b.check_id)));
        let mut checks: Vec<Check> = checks.into_iter().map(listed_check).collect();
        self.nearest_first(call, &mut checks, |c| &c.node);
        Ok(self.listing(call, Shape::Check, &checks)?.at(index).effective(options.consistency))
    }

    pub(super) async fn health_state(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        let wanted = call.rest;
        if wanted.is_empty() {
            return Err(Reply::bad("Missing check state"));
        }
        let state = self.wait_table(&options, Table::Checks).await;
        let takes = |c: &Check| {
            (wanted == "any" || c.status == wanted)
                && (choice.node_meta.is_empty() || state.node(&c.node).is_some_and(|n| choice.takes_node(n)))
        };
        let mut checks: Vec<Check> = state.checks().filter(|c| takes(c)).map(|c| listed_check(c)).collect();
        self.nearest_first(call, &mut checks, |c| &c.node);
        Ok(self
            .listing(call, Shape::Check, &checks)?
            .at(state.table_index(Table::Checks))
            .effective(options.consistency))
    }

    /// Waits for what concerns one service name (or its proxies); gives the version and the index to report.
    pub(super) async fn wait_service(
        &self,
        options: &ReadOptions,
        name: &str,
        connect: bool,
    ) -> (std::sync::Arc<State>, u64) {
        if connect {
            let tables = [Table::Nodes, Table::Services, Table::Checks];
            let index_of = |s: &State| tables.iter().map(|t| s.table_index(*t)).max().unwrap_or(1);
            let interest = || Interest::Any(tables.iter().map(|t| Topic::Table(*t)).collect());
            let state = self.wait(options, interest, index_of).await;
            let index = index_of(&state);
            return (state, index);
        }
        let interest = || Interest::One(Topic::Service(crate::state::fold(name)));
        let state = self.wait(options, interest, |s| s.service_index(name)).await;
        let index = state.service_index(name);
        (state, index)
    }
}

fn passing_only(call: &Call<'_>) -> Result<bool, Reply> {
    match call.query.get("passing") {
        None => Ok(false),
        Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some(_) => Err(Reply::bad("Invalid value for ?passing")),
    }
}

/// Parts with their lengths before them: tags come from the client and may hold any character, and no two questions may
/// share an answer.
fn cache_key(name: &str, passing: bool, choice: &Choice<'_>) -> String {
    let mut key = String::with_capacity(name.len() + 32);
    key.push_str(if passing { "health/p" } else { "health/a" });
    let mut part = |kind: char, text: &str| {
        key.push(kind);
        key.push_str(itoa::Buffer::new().format(text.len()));
        key.push(':');
        key.push_str(text);
    };
    part('s', name);
    for tag in &choice.tags {
        part('t', tag);
    }
    for (k, v) in &choice.node_meta {
        part('k', k);
        part('v', v);
    }
    key
}

fn encode(state: &State, name: &str, passing: bool, choice: &Choice<'_>) -> Result<Bytes, serde_json::Error> {
    super::json::compact(&entries(state, name, false, passing, choice))
}

fn entries<'a>(
    state: &'a State,
    name: &str,
    connect: bool,
    passing: bool,
    choice: &Choice<'_>,
) -> Vec<ServiceEntry<'a>> {
    let entry = |(node, instance): (&'a std::sync::Arc<Node>, &'a std::sync::Arc<Instance>)| {
        if !choice.takes(node, &instance.service) {
            return None;
        }
        let own = state.checks_of(&instance.node, "");
        let of_service = state.checks_of(&instance.node, &instance.service.id);
        let checks: Vec<Check> = own.into_iter().chain(of_service).map(|c| listed_check(c)).collect();
        if passing && checks.iter().any(|c| c.status != "passing") {
            return None;
        }
        Some(ServiceEntry { node, service: listed(&instance.service), checks })
    };
    instances(state, name, connect).into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_questions_share_a_cache_key() {
        let choice = |tags: &[&'static str], meta: &[(&'static str, &'static str)]| Choice {
            tags: tags.to_vec(),
            node_meta: meta.to_vec(),
        };
        let all = [
            cache_key("web", false, &choice(&[], &[])),
            cache_key("web", true, &choice(&[], &[])),
            cache_key("web", false, &choice(&["a", "b"], &[])),
            cache_key("web", false, &choice(&["a\0b"], &[])),
            cache_key("web", false, &choice(&["a", "\u{1}b:c"], &[])),
            cache_key("web", false, &choice(&["a"], &[("b", "c")])),
            cache_key("web", false, &choice(&["at1:b"], &[])),
            cache_key("web", false, &choice(&["a"], &[("b:c", "")])),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }
}
