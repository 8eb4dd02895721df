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
    /// Finds the route of a request; answers with an index into `routes`.
    pub router: Router,
    /// Routes in the configuration's order; the router's and plugins' index.
    pub routes: Vec<RouteEntry>,
    /// The chain of the global plugins, for requests without a route: its response phases run on the 404.
    pub unmatched: Chain,
    /// Upstreams in use, by name: Kong upstreams, and one for each other host a service names.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
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
