//! Routes by host: exact names, `*.example.com`, `example.*`, each with or without a port, and routes that name no host.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Ask;
use super::tree::{Keyed, Rank, Tree};

/// A route's host pattern, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HostRule {
    /// The route names no host.
    Any,
    Exact(Box<str>, Option<u16>),
    /// With its leading dot: `.example.com`.
    Suffix(Box<str>, Option<u16>),
    /// With its trailing dot: `example.`.
    Prefix(Box<str>, Option<u16>),
}

impl HostRule {
    /// Reads a validated `hosts` entry.
    pub fn parse(host: &str) -> HostRule {
        let host = host.to_ascii_lowercase();
        let (name, port) = split_port(&host);
        if let Some(suffix) = name.strip_prefix('*') {
            return HostRule::Suffix(suffix.into(), port);
        }
        match name.strip_suffix('*') {
            Some(prefix) => HostRule::Prefix(prefix.into(), port),
            None => HostRule::Exact(name.into(), port),
        }
    }
}

/// `name:port`; brackets of IPv6 addresses stay with the name.
pub(super) fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (host, None),
        },
        _ => (host, None),
    }
}

/// One host's routes: for any port, and for particular ones.
#[derive(Clone, Debug, Default)]
struct Ports {
    any: Tree,
    some: Vec<(u16, Tree)>,
}

impl Ports {
    fn visit<'t>(&'t self, port: u16, visit: &mut impl FnMut(&'t Tree)) {
        if !self.any.is_empty() {
            visit(&self.any);
        }
        for (own, tree) in &self.some {
            if *own == port {
                visit(tree);
            }
        }
    }

    fn change(&mut self, port: Option<u16>, change: impl FnOnce(&Tree) -> Tree) {
        let Some(port) = port else {
            self.any = change(&self.any);
            return;
        };
        let at = match self.some.iter().position(|(own, _)| *own == port) {
            Some(at) => at,
            None => {
                self.some.push((port, Tree::default()));
                self.some.len() - 1
            }
        };
        let tree = self.some.get(at).map(|(_, tree)| change(tree)).unwrap_or_default();
        if tree.is_empty() {
            self.some.swap_remove(at);
        } else if let Some((_, own)) = self.some.get_mut(at) {
            *own = tree;
        }
    }

    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.some.is_empty()
    }
}

/// Parts of a table of names; a change copies only the part it is in.
const SHARDS: usize = 64;

type Shard = HashMap<Box<str>, Ports, RandomState>;

/// Hosts by name.
#[derive(Clone, Debug)]
struct Names {
    shards: Vec<Arc<Shard>>,
    hasher: RandomState,
    len: usize,
}

impl Default for Names {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self { shards: vec![empty; SHARDS], hasher: RandomState::default(), len: 0 }
    }
}

impl Names {
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn shard(&self, name: &str) -> usize {
        // The lower bits choose within a shard.
        (self.hasher.hash_one(name) >> 58) as usize % SHARDS
    }

    fn get(&self, name: &str) -> Option<&Ports> {
        self.shards.get(self.shard(name))?.get(name)
    }

    fn change(&mut self, name: &str, port: Option<u16>, change: impl FnOnce(&Tree) -> Tree) {
        let at = self.shard(name);
        let Some(shard) = self.shards.get_mut(at) else { return };
        let shard = Arc::make_mut(shard);
        let before = shard.len();
        let ports = shard.entry(name.into()).or_default();
        ports.change(port, change);
        if ports.is_empty() {
            shard.remove(name);
        }
        self.len = self.len + shard.len() - before;
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    any: Tree,
    exact: Names,
    suffix: Names,
    prefix: Names,
}

impl Hosts {
    /// Shows every tree whose host rule fits the request.
    pub fn visit<'t>(&'t self, ask: &Ask<'_>, mut visit: impl FnMut(&'t Tree)) {
        visit(&self.any);
        let Some(host) = ask.host else { return };
        let host = lower(host);
        let (name, port) = split_port(&host);
        let port = port.unwrap_or(if ask.https { 443 } else { 80 });
        if !self.exact.is_empty()
            && let Some(ports) = self.exact.get(name)
        {
            ports.visit(port, &mut visit);
        }
        if self.suffix.is_empty() && self.prefix.is_empty() {
            return;
        }
        // The star stands for at least one character, so a dot at the very start or end does not count.
        for (at, _) in name.match_indices('.') {
            if at > 0
                && let Some(ports) = name.get(at..).and_then(|suffix| self.suffix.get(suffix))
            {
                ports.visit(port, &mut visit);
            }
            if at + 1 < name.len()
                && let Some(ports) = name.get(..=at).and_then(|prefix| self.prefix.get(prefix))
            {
                ports.visit(port, &mut visit);
            }
        }
    }

    fn change(&mut self, rule: &HostRule, change: impl FnOnce(&Tree) -> Tree) {
        match rule {
            HostRule::Any => self.any = change(&self.any),
            HostRule::Exact(name, port) => self.exact.change(name, *port, change),
            HostRule::Suffix(name, port) => self.suffix.change(name, *port, change),
            HostRule::Prefix(name, port) => self.prefix.change(name, *port, change),
        }
    }

    /// Puts an entry under a host.
    pub fn insert(&mut self, rule: &HostRule, (key, entry): Keyed) {
        self.change(rule, |tree| tree.with(&key, entry));
    }

    /// Takes an entry out.
    pub fn remove(&mut self, rule: &HostRule, key: &[u8], rank: &Rank) {
        self.change(rule, |tree| tree.without(key, rank));
    }

    /// All at once, from entries by host.
    pub fn build(rules: HashMap<HostRule, Vec<Keyed>>) -> Hosts {
        let mut hosts = Hosts::default();
        for (rule, keyed) in rules {
            hosts.change(&rule, |_| Tree::build(keyed));
        }
        hosts
    }
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}
