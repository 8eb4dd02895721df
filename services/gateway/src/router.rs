//! Finds the route of a request, in Kong's order (`traditional_compatible`).
//!
//! Kong compares a request with its routes one after another, most specific first. Here the same order is a number (the rank)
//! given at build time, and the request is looked up instead: by host in hash tables, by path in a radix tree
//! whose walk passes all prefixes of the path, regular expressions standing at the literal text they begin with. Of everything the walk
//! meets, the lowest rank whose other criteria hold wins. The cost depends on the path's length and on how many routes share
//! host and prefix, not on how many routes there are, and nothing is allocated unless the path needs normalising or a
//! regular expression has groups.
//!
//! A router is immutable. [`Router::change`] makes another one that shares everything with it but what lies on the way to the
//! changed routes.

mod hosts;
mod part;
mod tree;

#[cfg(test)]
mod reference;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method};
use plinth_kong::Config;

use hosts::Hosts;
use tree::Entry;

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
    /// What the router was told the route is called: its place in the snapshot.
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
#[derive(Clone, Debug, Default)]
pub struct Router {
    hosts: Hosts,
}

/// The best candidate so far.
struct Best<'t> {
    entry: &'t Entry,
    matched: usize,
}

/// Why a route that shares host and path with a request does not get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does get it.
    Chosen,
    /// Everything fits, but the chosen one comes before it in Kong's order.
    Later,
    /// A criterion does not fit: `methods`, `headers`, `snis` or `paths`.
    Misses(&'static str),
}

/// A route that shares host and prefix with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Competitor {
    /// What the router was told the route is called.
    pub route: usize,
    /// Bytes of the path it matches; 0 for a route without paths.
    pub matched: usize,
    pub verdict: Verdict,
}

impl Router {
    /// Compiles the routes of a configuration; a route is called by its position. Routes of disabled services and of tcp,
    /// tls and udp do not exist.
    ///
    /// # Errors
    /// A pattern or header name that does not compile.
    pub fn new(config: &Config) -> Result<Router, Error> {
        let disabled: std::collections::HashSet<_> =
            config.services.iter().filter(|service| !service.enabled).map(|service| service.id).collect();
        let routes =
            config.routes.iter().enumerate().filter(|(_, route)| {
                route.is_http() && !route.service.is_some_and(|id| disabled.contains(&id))
            });
        Router::of(routes.map(|(at, route)| (at, &**route)))
    }

    /// Compiles these routes, each with what it is called.
    ///
    /// # Errors
    /// A pattern or header name that does not compile.
    pub fn of<'r>(routes: impl Iterator<Item = (usize, &'r plinth_kong::Route)>) -> Result<Router, Error> {
        let mut rules: HashMap<_, Vec<_>> = HashMap::new();
        for (name, route) in routes {
            let placed = part::place(name, route)?;
            for host in placed.hosts {
                rules.entry(host).or_default().extend(placed.paths.iter().cloned());
            }
        }
        Ok(Router { hosts: Hosts::build(rules) })
    }

    /// The router without some routes and with some others. A changed route is in both lists.
    ///
    /// # Errors
    /// A pattern or header name that does not compile.
    pub fn change<'r>(
        &self,
        removed: impl Iterator<Item = &'r plinth_kong::Route>,
        added: impl Iterator<Item = (usize, &'r plinth_kong::Route)>,
    ) -> Result<Router, Error> {
        let mut hosts = self.hosts.clone();
        for route in removed {
            let rules = part::hosts(route);
            for (key, rank) in part::places(route) {
                rules.iter().for_each(|rule| hosts.remove(rule, &key, &rank));
            }
        }
        for (name, route) in added {
            let placed = part::place(name, route)?;
            for rule in &placed.hosts {
                placed.paths.iter().for_each(|keyed| hosts.insert(rule, keyed.clone()));
            }
        }
        Ok(Router { hosts })
    }

    /// Finds the route of a request.
    #[must_use]
    pub fn find<'q>(&self, ask: &Ask<'q>) -> Option<Match<'q>> {
        let path = plinth_kong::normalize_path(ask.path);
        let mut best: Option<Best<'_>> = None;
        self.hosts.visit(ask, |tree| {
            tree.walk(&path, |node| {
                for entry in node {
                    if best.as_ref().is_some_and(|best| best.entry.rank <= entry.rank) {
                        break;
                    }
                    if !entry.part.admits(ask) {
                        continue;
                    }
                    if let Some(matched) = entry.part.path_match(entry, &path) {
                        best = Some(Best { entry, matched });
                        break;
                    }
                }
            });
        });
        let Best { entry, matched } = best?;
        let captures = entry.pattern().map(|pattern| entry.part.captures(pattern, &path)).unwrap_or_default();
        Some(Match { route: entry.part.route, matched, captures, path })
    }

    /// Every route that shares host and prefix with a request, in Kong's order, and why it gets the request or not.
    #[must_use]
    pub fn explain(&self, ask: &Ask<'_>) -> Vec<Competitor> {
        let path = plinth_kong::normalize_path(ask.path);
        let mut entries: Vec<&Entry> = Vec::new();
        self.hosts.visit(ask, |tree| tree.walk(&path, |node| entries.extend(node)));
        entries.sort_by_key(|entry| entry.rank);
        // A route with several hosts is met once for each that fits.
        entries.dedup_by_key(|entry| entry.rank);
        let mut chosen = false;
        let mut competitors: Vec<Competitor> = Vec::new();
        for entry in entries {
            let matched = entry.part.path_match(entry, &path);
            let verdict = match (entry.part.miss(ask), matched) {
                (Some(criterion), _) => Verdict::Misses(criterion),
                (None, None) => Verdict::Misses("paths"),
                (None, Some(_)) if chosen => Verdict::Later,
                (None, Some(_)) => {
                    chosen = true;
                    Verdict::Chosen
                }
            };
            competitors.push(Competitor { route: entry.part.route, matched: matched.unwrap_or(0), verdict });
        }
        competitors
    }
}

#[cfg(test)]
mod tests;
