//! Routes by host: exact names, `*.example.com`, `example.*`, each with or without a port, and routes that name no host.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Ask;
use super::tree::{Entry, Tree};

/// A route's host pattern, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Debug, Default)]
struct Ports {
    any: Option<Tree>,
    some: Vec<(u16, Tree)>,
}

impl Ports {
    fn visit(&self, port: u16, visit: &mut impl FnMut(&Tree)) {
        if let Some(tree) = &self.any {
            visit(tree);
        }
        for (own, tree) in &self.some {
            if *own == port {
                visit(tree);
            }
        }
    }
}

type Names = HashMap<Box<str>, Ports, RandomState>;

#[derive(Debug, Default)]
pub(super) struct Hosts {
    any: Tree,
    exact: Names,
    suffix: Names,
    prefix: Names,
}

impl Hosts {
    /// Shows every tree whose host rule fits the request.
    pub fn visit(&self, ask: &Ask<'_>, mut visit: impl FnMut(&Tree)) {
        visit(&self.any);
        let Some(host) = ask.host else { return };
        let host = lower(host);
        let (name, port) = split_port(&host);
        let port = port.unwrap_or(if ask.https { 443 } else { 80 });
        if let Some(ports) = self.exact.get(name) {
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
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// What will stand in one tree, each entry under its key.
type Keyed = Vec<(Box<[u8]>, Entry)>;

/// Keys and entries by host rule, before trees are made of them.
#[derive(Default)]
pub(super) struct HostsBuilder {
    rules: HashMap<HostRule, Keyed>,
}

impl HostsBuilder {
    /// Puts an entry under each of a part's hosts.
    pub fn insert(&mut self, hosts: &[HostRule], (key, entry): (Box<[u8]>, Entry)) {
        for rule in hosts {
            self.rules.entry(rule.clone()).or_default().push((key.clone(), entry));
        }
    }

    pub fn build(self) -> Hosts {
        let mut hosts = Hosts::default();
        for (rule, keyed) in self.rules {
            let tree = Tree::build(keyed);
            let (names, name, port) = match rule {
                HostRule::Any => {
                    hosts.any = tree;
                    continue;
                }
                HostRule::Exact(name, port) => (&mut hosts.exact, name, port),
                HostRule::Suffix(name, port) => (&mut hosts.suffix, name, port),
                HostRule::Prefix(name, port) => (&mut hosts.prefix, name, port),
            };
            let ports = names.entry(name).or_default();
            match port {
                None => ports.any = Some(tree),
                Some(port) => ports.some.push((port, tree)),
            }
        }
        hosts
    }
}
