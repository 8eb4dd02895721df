//! `/v1/health/`.

use std::borrow::Cow;

use serde::Serialize;

use super::catalog::{Choice, instances, listed};
use super::filter::{Filter, fields};
use super::query::ReadOptions;
use super::reply::{Handled, Reply};
use super::{Call, Server};
use crate::engine::watch::Interest;
use crate::state::model::{Check, Instance, Node, Service};
use crate::state::{State, Table, Topic};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceEntry<'a> {
    pub node: &'a Node,
    pub service: Cow<'a, Service>,
    pub checks: Vec<Cow<'a, Check>>,
}

/// What is asked of a service's instances.
struct Entries<'a> {
    options: ReadOptions,
    passing: bool,
    choice: Choice<'a>,
    filter: Filter,
}

impl<'a> Entries<'a> {
    fn of(server: &Server, call: &'a Call<'_>) -> Result<Entries<'a>, Reply> {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let passing = passing_only(call)?;
        let choice = Choice::of(&call.query);
        let filter = server.read_filter(call, fields::ENTRY)?;
        Ok(Entries { options, passing, choice, filter })
    }
}

/// The check with its tags as a list.
pub(super) fn listed_check(check: &Check) -> Cow<'_, Check> {
    if check.service_tags.is_some() {
        return Cow::Borrowed(check);
    }
    Cow::Owned(Check { service_tags: Some(Vec::new()), ..check.clone() })
}

impl Server {
    pub(super) async fn health_service(&self, call: &Call<'_>, connect: bool) -> Handled {
        let asked = Entries::of(self, call)?;
        let (state, index) = self.wait_service(&asked.options, call.rest, connect).await;
        self.entries_found(call, &asked, connect, &state, index)
    }

    /// The same without waiting.
    pub(super) fn health_service_at_once(&self, call: &Call<'_>) -> Option<Handled> {
        let found = Entries::of(self, call).and_then(|asked| {
            let state = self.engine.glance();
            self.entries_found(call, &asked, false, &state, state.service_index(call.rest))
        });
        Some(found)
    }

    fn entries_found(
        &self,
        call: &Call<'_>,
        asked: &Entries<'_>,
        connect: bool,
        state: &State,
        index: u64,
    ) -> Handled {
        let Entries { options, passing, choice, filter } = asked;
        let name = call.rest;
        let body = self.shared_body(call, index, || {
            let mut found = entries(state, name, connect, *passing, choice);
            self.nearest_first(call, &mut found, |e| &e.node.node);
            Ok(self.listing(call, filter, &found))
        })?;
        let reply = Reply::read(body, index, Some(options.consistency));
        self.cached(call, || choice.question("health", name, connect, call), reply)
    }

    /// Instances of the gateways that let a service in from outside.
    pub(super) async fn health_ingress(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let name = call.rest;
        if name.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let passing = passing_only(call)?;
        let choice = Choice::of(&call.query);
        let filter = self.read_filter(call, fields::ENTRY)?;
        let (state, index) = self.wait_service(&options, name, true).await;
        let gateways = super::config_entry::ingress_gateways_of(&state, name);
        let mut found: Vec<ServiceEntry<'_>> = gateways
            .iter()
            .flat_map(|gateway| entries(&state, gateway, false, passing, &choice))
            .filter(|entry| entry.service.kind == "ingress-gateway")
            .collect();
        self.nearest_first(call, &mut found, |e| &e.node.node);
        let reply = self.listing(call, &filter, &found).at(index).effective(options.consistency);
        self.cached(call, || choice.question("ingress", name, false, call), reply)
    }

    pub(super) async fn health_node(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing node name"));
        }
        let filter = self.read_filter(call, fields::CHECK)?;
        let state = self.wait_table(&options, Table::Checks).await;
        let index = state.table_index(Table::Checks);
        let reply = self.shared(call, index, || {
            let checks = state.node_checks(call.rest).into_iter();
            let checks: Vec<_> = checks.map(|c| listed_check(c)).collect();
            Ok(self.listing(call, &filter, &checks))
        })?;
        Ok(reply.at(index).effective(options.consistency))
    }

    pub(super) async fn health_checks(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        if call.rest.is_empty() {
            return Err(Reply::bad("Missing service name"));
        }
        let filter = self.read_filter(call, fields::CHECK)?;
        let (state, index) = self.wait_service(&options, call.rest, false).await;
        let reply = self.shared(call, index, || {
            let found = instances(&state, call.rest, false);
            let mut checks: Vec<&Check> = found
                .iter()
                .filter(|(node, _)| choice.takes_node(node))
                .flat_map(|(_, i)| state.checks_of(&i.node, &i.service.id))
                .map(|c| &**c)
                .collect();
            checks.sort_by(|a, b| (&a.node, &a.check_id).cmp(&(&b.node, &b.check_id)));
            let mut checks: Vec<_> = checks.into_iter().map(listed_check).collect();
            self.nearest_first(call, &mut checks, |c| &c.node);
            Ok(self.listing(call, &filter, &checks))
        })?;
        Ok(reply.at(index).effective(options.consistency))
    }

    pub(super) async fn health_state(&self, call: &Call<'_>) -> Handled {
        let options = ReadOptions::parse(&call.query)?;
        let choice = Choice::of(&call.query);
        let wanted = call.rest;
        if wanted.is_empty() {
            return Err(Reply::bad("Missing check state"));
        }
        let filter = self.read_filter(call, fields::CHECK)?;
        let state = self.wait_table(&options, Table::Checks).await;
        let takes = |c: &Check| {
            (wanted == "any" || c.status == wanted)
                && (choice.node_meta.is_empty() || state.node(&c.node).is_some_and(|n| choice.takes_node(n)))
        };
        let index = state.table_index(Table::Checks);
        let make = || {
            let chosen = state.checks().filter(|c| takes(c));
            let mut checks: Vec<_> = chosen.map(|c| listed_check(c)).collect();
            self.nearest_first(call, &mut checks, |c| &c.node);
            Ok(self.listing(call, &filter, &checks))
        };
        // the metadata of nodes changes without a check
        let reply = if choice.node_meta.is_empty() { self.shared(call, index, make) } else { make() };
        Ok(reply?.at(index).effective(options.consistency))
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

/// All entries of a name, healthy or not, with their checks as they are stored.
pub(super) fn raw_entries<'a>(state: &'a State, name: &str, connect: bool) -> Vec<ServiceEntry<'a>> {
    let found = instances(state, name, connect).into_iter();
    let entry = |(node, instance): (&'a std::sync::Arc<Node>, &'a std::sync::Arc<Instance>)| {
        let own = state.checks_of(&instance.node, "").into_iter();
        let of_service = state.checks_of(&instance.node, &instance.service.id).into_iter();
        let checks = own.chain(of_service).map(|check| Cow::Borrowed(&**check)).collect();
        ServiceEntry { node, service: listed(&instance.service), checks }
    };
    found.map(entry).collect()
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
        let checks: Vec<_> = own.into_iter().chain(of_service).map(|c| listed_check(c)).collect();
        if passing && checks.iter().any(|c| c.status != "passing") {
            return None;
        }
        Some(ServiceEntry { node, service: listed(&instance.service), checks })
    };
    instances(state, name, connect).into_iter().filter_map(entry).collect()
}
