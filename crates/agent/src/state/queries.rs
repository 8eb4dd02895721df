//! Prepared queries: stored definitions of a service lookup, found by id, by name, or as a template by the longest
//! prefix of a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, Fault, State, Table, fold};

pub mod template;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreparedQuery {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    /// The query goes with this session; empty for none.
    pub session: String,
    pub token: String,
    pub template: Template,
    pub service: ServiceQuery,
    #[serde(rename = "DNS")]
    pub dns: DnsOptions,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Template {
    /// Empty for a plain query, else `name_prefix_match`.
    #[serde(rename = "Type")]
    pub kind: String,
    pub regexp: String,
    pub remove_empty_tags: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceQuery {
    pub service: String,
    pub failover: Failover,
    pub only_passing: bool,
    #[serde(rename = "IgnoreCheckIDs")]
    pub ignore_check_ids: Option<Vec<String>>,
    pub near: String,
    /// `!tag` excludes.
    pub tags: Option<Vec<String>>,
    pub node_meta: Option<BTreeMap<String, String>>,
    pub service_meta: Option<BTreeMap<String, String>>,
    pub connect: bool,
}

/// Kept and shown; a single agent has no other datacenter to turn to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failover {
    pub nearest_n: i64,
    pub datacenters: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOptions {
    /// Go duration text.
    #[serde(rename = "TTL")]
    pub ttl: String,
}

impl PreparedQuery {
    pub fn is_template(&self) -> bool {
        !self.template.kind.is_empty()
    }
}

impl State {
    pub fn query(&self, id: &str) -> Option<&Arc<PreparedQuery>> {
        self.queries.get(id)
    }

    pub fn queries(&self) -> impl Iterator<Item = &Arc<PreparedQuery>> {
        self.queries.values()
    }

    /// The query that an id or a name means, templates filled in. The error is Consul's text.
    pub fn resolve_query(&self, text: &str) -> Result<Option<PreparedQuery>, String> {
        if uuid::Uuid::try_parse(text).is_ok_and(|_| text.len() == 36)
            && let Some(query) = self.queries.get(&*text.to_lowercase())
        {
            if query.is_template() {
                return Err("prepared query templates can only be resolved up by name, not by ID".to_owned());
            }
            return Ok(Some((**query).clone()));
        }
        let name = fold(text);
        if let Some(query) = self.queries.values().find(|q| !q.is_template() && fold(&q.name) == name) {
            return Ok(Some((**query).clone()));
        }
        let longest = self
            .queries
            .values()
            .filter(|q| q.is_template() && name.starts_with(&*fold(&q.name)))
            .max_by_key(|q| q.name.len());
        longest.map(|query| template::render(query, text)).transpose()
    }

    pub(super) fn query_set(&mut self, query: &PreparedQuery, change: &mut Change) -> Result<(), Fault> {
        let mut stored = query.clone();
        stored.create_index = match self.queries.get(query.id.as_str()) {
            Some(old) => old.create_index,
            None => change.index,
        };
        stored.modify_index = change.index;
        let others = || self.queries.values().filter(|other| other.id != query.id);
        if !query.name.is_empty() {
            if others().any(|other| fold(&other.name) == fold(&query.name)) {
                return Err(Fault::QueryNameTaken(query.name.clone()));
            }
        } else if query.is_template() && others().any(|other| other.is_template() && other.name.is_empty()) {
            return Err(Fault::QueryWildcardTaken);
        }
        if self.queries.contains_key(query.name.as_str()) {
            return Err(Fault::QueryNameIsId(query.name.clone()));
        }
        if !query.session.is_empty() && !self.sessions.contains_key(query.session.as_str()) {
            return Err(Fault::SessionUnknown(query.session.clone()));
        }
        self.queries.insert(Arc::from(query.id.as_str()), Arc::new(stored));
        self.move_table(Table::Queries, change);
        Ok(())
    }

    pub(super) fn query_remove(&mut self, id: &str, change: &mut Change) {
        if self.queries.remove(id).is_some() {
            self.move_table(Table::Queries, change);
        }
    }

    /// Queries bound to a session go with it.
    pub(super) fn end_queries_of_session(&mut self, session: &str, change: &mut Change) {
        let bound: Vec<Arc<str>> =
            self.queries.iter().filter(|(_, q)| q.session == session).map(|(id, _)| id.clone()).collect();
        for id in bound {
            self.query_remove(&id, change);
        }
    }
}
