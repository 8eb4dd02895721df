//! Options and answers of reads.

use std::time::Duration;

use super::duration;

/// Who may answer a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The leader, without asking the others whether it still is one.
    #[default]
    Default,
    /// Any server, however old its data.
    Stale,
    /// The leader, after a quorum has confirmed it.
    Consistent,
}

/// Options of a read; the default is a plain read that does not block.
#[derive(Debug, Clone, Default)]
pub struct Read {
    pub consistency: Consistency,
    /// Above 0: block until the result's index is higher. 0: answer now.
    pub index: u64,
    /// Longest time to block; none: 5 minutes at the server. Only used with an index.
    pub wait: Option<Duration>,
    /// Filter expression of the server.
    pub filter: Option<String>,
    /// Sort by round-trip time from this node (`_agent`: the agent itself).
    pub near: Option<String>,
    pub node_meta: Vec<(String, String)>,
    pub dc: Option<String>,
}

impl Read {
    pub fn stale() -> Self {
        Self { consistency: Consistency::Stale, ..Self::default() }
    }

    pub fn consistent() -> Self {
        Self { consistency: Consistency::Consistent, ..Self::default() }
    }

    /// Blocks after `index` for at most `wait`.
    pub fn after(index: u64, wait: Duration) -> Self {
        Self { index, wait: Some(wait), ..Self::default() }
    }

    pub(super) fn add_to(&self, query: &mut super::call::Query) {
        match self.consistency {
            Consistency::Default => {}
            Consistency::Stale => query.flag("stale"),
            Consistency::Consistent => query.flag("consistent"),
        }
        if self.index > 0 {
            query.pair("index", &self.index.to_string());
            if let Some(wait) = self.wait {
                query.pair("wait", &duration::format(wait));
            }
        }
        if let Some(filter) = &self.filter {
            query.pair("filter", filter);
        }
        if let Some(near) = &self.near {
            query.pair("near", near);
        }
        for (key, value) in &self.node_meta {
            query.pair("node-meta", &format!("{key}:{value}"));
        }
    }
}

/// An answer with what Consul says about its freshness.
#[derive(Debug, Clone)]
pub struct Reply<T> {
    pub value: T,
    /// `X-Consul-Index`; 0 where the endpoint has none.
    pub index: u64,
    pub known_leader: bool,
    /// How long ago the answering server heard from the leader.
    pub last_contact: Duration,
}

impl<T> Reply<T> {
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Reply<U> {
        Reply {
            value: convert(self.value),
            index: self.index,
            known_leader: self.known_leader,
            last_contact: self.last_contact,
        }
    }
}
