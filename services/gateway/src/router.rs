//! Finds the route of a request, in Kong's order (`traditional_compatible`).
//!
//! Kong compares a request with its routes one after another, most specific first. Here the same order is a number (the rank)
//! given once, at build time, and the request is looked up instead: by host in hash tables, by path in a radix tree
//! whose walk passes all prefixes of the path, regular expressions standing at the literal text they begin with. Of everything the walk
//! meets, the lowest rank whose other criteria hold wins. The cost depends on the path's length and on how many routes share
//! host and prefix, not on how many routes there are, and nothing is allocated unless the path needs normalising or a
//! regular expression has groups.

mod hosts;
mod part;
mod tree;

#[cfg(test)]
mod reference;

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use plinth_kong::Config;

use hosts::{Hosts, HostsBuilder};
use part::{Part, Parts};

/// What is asked: one request's head.
#[derive(Debug)]
pub struct Ask<'q> {
    pub method: &'q Method,
    /// As received, without the query.
    pub path: &'q str,
    /// `Host` or `:authority`, as sent.
    pub host: Option<&'q str>,
    pub headers: &'q HeaderMap,
    /// Server name of the TLS handshake.
    pub sni: Option<&'q str>,
    /// The client's scheme is https; server names only count then.
    pub https: bool,
}

/// The route found.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'q> {
    /// Index into the configuration's routes.
    pub route: usize,
    /// The request's path in normal form.
    pub path: Cow<'q, str>,
    /// How many bytes of `path` the route's prefix or expression matched; 0 for a route without paths.
    pub matched: usize,
    /// Groups of the route's regular expression, by number and by name.
    pub captures: Vec<(Arc<str>, String)>,
}

impl Match<'_> {
    /// The matched text; "/" for a route without paths.
    #[must_use]
    pub fn prefix(&self) -> &str {
        if self.matched == 0 { "/" } else { self.path.get(..self.matched).unwrap_or("/") }
    }
}

/// Why a router cannot be built. Validated configurations give no such errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("route {route}: regular expression '{pattern}' does not compile: {why}")]
    Pattern { route: String, pattern: String, why: String },
    #[error("route {route}: header name '{name}' is not valid")]
    Header { route: String, name: String },
}

/// All routes of one configuration, compiled.
#[derive(Debug)]
pub struct Router {
    /// By rank.
    parts: Vec<Part>,
    hosts: Hosts,
}

/// The best candidate so far.
#[derive(Clone, Copy)]
pub(in crate::router) struct Best {
    /// Rank, and within it the position of the path among the route's.
    order: u64,
    matched: usize,
    pattern: Option<u32>,
}

impl Router {
    /// Compiles the routes of a configuration. Routes of disabled services and of tcp, tls and udp do not exist.
    ///
    /// # Errors
    /// A pattern or header name that does not compile.
    pub fn new(config: &Config) -> Result<Router, Error> {
        let disabled: std::collections::HashSet<_> =
            config.services.iter().filter(|service| !service.enabled).map(|service| service.id).collect();
        let mut parts = Parts::default();
        for (index, route) in config.routes.iter().enumerate() {
            if route.is_http() && !route.service.is_some_and(|id| disabled.contains(&id)) {
                parts.add(index, route)?;
            }
        }
        let mut builder = HostsBuilder::default();
        let parts = parts.rank(|entry, hosts| builder.insert(hosts, entry));
        Ok(Router { parts, hosts: builder.build() })
    }

    /// Finds the route of a request.
    #[must_use]
    pub fn find<'q>(&self, ask: &Ask<'q>) -> Option<Match<'q>> {
        let path = plinth_kong::normalize_path(ask.path);
        let mut best = None;
        self.hosts.visit(ask, |tree| {
            tree.walk(&path, |node| {
                for entry in node {
                    if best.is_some_and(|best: Best| best.order <= entry.order) {
                        break;
                    }
                    let Some(part) = self.parts.get(entry.rank()) else { continue };
                    if !part.admits(ask) {
                        continue;
                    }
                    if let Some(matched) = part.path_match(entry, &path) {
                        best = Some(Best { order: entry.order, matched, pattern: entry.pattern() });
                        break;
                    }
                }
            });
        });
        let best = best?;
        let part = self.parts.get((best.order >> 16) as usize)?;
        let captures = best.pattern.map(|pattern| part.captures(pattern, &path)).unwrap_or_default();
        Some(Match { route: part.route, matched: best.matched, captures, path })
    }
}

#[cfg(test)]
mod tests;
