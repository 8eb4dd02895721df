//! One immutable configuration, compiled: what requests are served from.
//!
//! A request takes the snapshot once and keeps it to its end. Everything that changes while a configuration stays
//! the same (endpoints of an upstream, in-flight counts, health) hangs off it by `Arc` and survives the swap to the
//! next generation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::plugins::Chain;
use crate::router::Router;
use crate::upstream::Upstream;

/// A compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts applied configurations, from 1.
    pub generation: u64,
    /// 32 hex digits over the configuration's content, as `/status` shows; all zeros for the empty one.
    pub hash: String,
    /// The configuration itself, normalised: what the Admin API shows.
    pub config: Arc<plinth_kong::Config>,
    /// Finds the route of a request; answers with its place in `routes`.
    pub router: Router,
    /// Routes by place, which a route keeps as long as it is configured.
    pub routes: Routes,
    /// The chain of the global plugins, for requests without a route: its response phases run on the 404.
    pub unmatched: Chain,
    /// Upstreams in use, by name: Kong upstreams, and one for each other host a service names.
    pub upstreams: Arc<BTreeMap<String, Arc<Upstream>>>,
}

/// Routes by place. A new generation shares the entries that did not change.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Option<Arc<RouteEntry>>>);

impl Routes {
    /// The route at a place.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&RouteEntry> {
        self.0.get(place)?.as_deref()
    }

    /// The same, to be shared.
    #[must_use]
    pub fn shared(&self, place: usize) -> Option<&Arc<RouteEntry>> {
        self.0.get(place)?.as_ref()
    }

    /// Puts a route at a place, or takes it away.
    pub fn set(&mut self, place: usize, entry: Option<Arc<RouteEntry>>) {
        if place >= self.0.len() {
            self.0.resize(place + 1, None);
        }
        if let Some(slot) = self.0.get_mut(place) {
            *slot = entry;
        }
    }

    /// All routes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &RouteEntry> {
        self.0.iter().filter_map(Option::as_deref)
    }
}

/// A route with what is pre-computed for it.
#[derive(Debug)]
pub struct RouteEntry {
    /// The route as configured.
    pub route: Arc<plinth_kong::Route>,
    /// Its service; a route without one is answered 503 unless a plugin ends it.
    pub service: Option<Arc<ServiceEntry>>,
    /// Its plugins.
    pub chain: Chain,
}

/// A service with what is pre-computed for it.
#[derive(Debug)]
pub struct ServiceEntry {
    /// The service as configured.
    pub service: Arc<plinth_kong::Service>,
    /// Speak TLS to it.
    pub tls: Option<Arc<crate::client::TlsTarget>>,
    /// Speak HTTP/2 to it (gRPC).
    pub http2: bool,
    /// Path in front of every request's path.
    pub path: String,
    /// `Host` towards it when neither the route nor a plugin says otherwise; `None` = the endpoint's own.
    pub host_header: Option<String>,
    /// More tries after the first.
    pub retries: u32,
    /// Limit for connecting (TCP and TLS).
    pub connect_timeout: Duration,
    /// Limit between two writes.
    pub write_timeout: Duration,
    /// Limit between two reads.
    pub read_timeout: Duration,
    /// Where it is.
    pub upstream: Arc<Upstream>,
}

impl ServiceEntry {
    /// Both stand for the same service at the same place: one can go on in the other's stead.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        tls && Arc::ptr_eq(&self.service, &other.service)
            && Arc::ptr_eq(&self.upstream, &other.upstream)
            && self.host_header == other.host_header
    }
}
