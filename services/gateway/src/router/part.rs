//! Parts of routes, ranked. A route whose paths differ in length, or mix prefixes and expressions, competes once for each kind.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderName, Method};
use plinth_kong::{Pattern, Route};

use super::hosts::HostRule;
use super::tree::{Entry, Kind};
use super::{Ask, Error};

/// Everything a request has to fulfil besides host and prefix.
#[derive(Debug)]
pub(super) struct Part {
    /// Index into the configuration's routes.
    pub route: usize,
    criteria: Arc<Criteria>,
    patterns: Vec<Arc<Pattern>>,
}

#[derive(Debug)]
struct Criteria {
    methods: Option<Box<[Method]>>,
    headers: Box<[HeaderRule]>,
    snis: Option<Box<[HostRule]>>,
}

#[derive(Debug)]
struct HeaderRule {
    name: HeaderName,
    values: HeaderValues,
}

#[derive(Debug)]
enum HeaderValues {
    AnyOf(Box<[Box<str>]>),
    Pattern(Box<Pattern>),
}

impl HeaderRule {
    fn admits(&self, ask: &Ask<'_>) -> bool {
        ask.headers.get_all(&self.name).iter().any(|value| match &self.values {
            HeaderValues::AnyOf(values) => {
                values.iter().any(|wanted| value.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
            }
            HeaderValues::Pattern(pattern) => value.to_str().is_ok_and(|value| pattern.is_match(value)),
        })
    }
}

impl Part {
    /// Methods, headers and server names.
    pub fn admits(&self, ask: &Ask<'_>) -> bool {
        let criteria = &*self.criteria;
        let method = criteria.methods.as_ref().is_none_or(|methods| methods.contains(ask.method));
        method
            && criteria.headers.iter().all(|rule| rule.admits(ask))
            && criteria
                .snis
                .as_ref()
                .is_none_or(|snis| !ask.https || ask.sni.is_some_and(|sni| sni_fits(snis, sni)))
    }

    /// How much of the path an entry of this part matches.
    pub fn path_match(&self, entry: &Entry, path: &str) -> Option<usize> {
        match entry.kind {
            Kind::Any => Some(0),
            Kind::Prefix(len) => Some(len as usize),
            Kind::Pattern(index) => self.patterns.get(index as usize)?.match_len(path),
        }
    }

    pub fn captures(&self, pattern: u32, path: &str) -> Vec<(Arc<str>, String)> {
        let Some(pattern) = self.patterns.get(pattern as usize) else { return Vec::new() };
        pattern.captures(path).into_iter().map(|(name, text)| (name.into(), text)).collect()
    }
}

fn sni_fits(rules: &[HostRule], sni: &str) -> bool {
    let sni = sni.trim_end_matches('.').to_ascii_lowercase();
    rules.iter().any(|rule| match rule {
        HostRule::Any => true,
        HostRule::Exact(name, _) => **name == *sni,
        HostRule::Suffix(suffix, _) => sni.len() > suffix.len() && sni.ends_with(&**suffix),
        HostRule::Prefix(prefix, _) => sni.len() > prefix.len() && sni.starts_with(&**prefix),
    })
}

/// Kong's order, most important first; smaller sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weight {
    kinds: Reverse<usize>,
    plain_hosts: Reverse<bool>,
    headers: Reverse<usize>,
    pattern: Reverse<bool>,
    regex_priority: Reverse<i32>,
    length: Reverse<usize>,
    id: Reverse<uuid::Uuid>,
}

impl Weight {
    /// The rank of a route's part whose paths are `paths`: all expressions, or all prefixes of one length.
    pub fn new(route: &Route, paths: &[&str]) -> Weight {
        let pattern = paths.first().is_some_and(|path| path.starts_with('~'));
        let criteria = [
            !route.methods.is_empty(),
            !route.hosts.is_empty(),
            !route.headers.is_empty(),
            !paths.is_empty(),
            !route.snis.is_empty(),
        ];
        Weight {
            kinds: Reverse(criteria.into_iter().filter(|given| *given).count()),
            plain_hosts: Reverse(
                !route.hosts.is_empty() && !route.hosts.iter().any(|host| host.contains('*')),
            ),
            headers: Reverse(route.headers.len()),
            pattern: Reverse(pattern),
            regex_priority: Reverse(if pattern { route.regex_priority } else { 0 }),
            length: Reverse(if pattern { 0 } else { paths.first().map_or(0, |path| path.len()) }),
            id: Reverse(route.id),
        }
    }
}

/// A route's paths, grouped as they compete: expressions together, prefixes by length. One empty group without paths.
pub(super) fn groups(route: &Route) -> Vec<Vec<&str>> {
    if route.paths.is_empty() {
        return vec![Vec::new()];
    }
    let mut groups: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for path in &route.paths {
        groups.entry(if path.starts_with('~') { 0 } else { path.len() }).or_default().push(path);
    }
    groups.into_values().collect()
}

struct Candidate {
    weight: Weight,
    part: Part,
    hosts: Arc<[HostRule]>,
    /// Key in the tree and what stands there.
    paths: Vec<(Box<[u8]>, Kind)>,
}

/// Collects parts until all are known and can be ranked.
#[derive(Default)]
pub(super) struct Parts {
    candidates: Vec<Candidate>,
    patterns: HashMap<String, Arc<Pattern>>,
}

impl Parts {
    pub fn add(&mut self, index: usize, route: &Route) -> Result<(), Error> {
        let criteria = Arc::new(criteria(route)?);
        let hosts: Arc<[HostRule]> = if route.hosts.is_empty() {
            Arc::new([HostRule::Any])
        } else {
            route.hosts.iter().map(|host| HostRule::parse(host)).collect()
        };
        for group in groups(route) {
            let weight = Weight::new(route, &group);
            let mut part = Part { route: index, criteria: Arc::clone(&criteria), patterns: Vec::new() };
            let mut paths = Vec::new();
            for path in &group {
                paths.push(self.path(&mut part, route, path)?);
            }
            if paths.is_empty() {
                paths.push((Box::default(), Kind::Any));
            }
            self.candidates.push(Candidate { weight, part, hosts: Arc::clone(&hosts), paths });
        }
        Ok(())
    }

    fn path(&mut self, part: &mut Part, route: &Route, path: &str) -> Result<(Box<[u8]>, Kind), Error> {
        let Some(source) = path.strip_prefix('~') else {
            let prefix = plinth_kong::encode_path(path);
            let kind = Kind::Prefix(u32::try_from(prefix.len()).unwrap_or(u32::MAX));
            return Ok((prefix.as_bytes().into(), kind));
        };
        let pattern = match self.patterns.get(source) {
            Some(pattern) => Arc::clone(pattern),
            None => {
                let compiled = Pattern::anchored(source).map_err(|why| Error::Pattern {
                    route: route.label(),
                    pattern: source.to_owned(),
                    why,
                })?;
                let compiled = Arc::new(compiled);
                self.patterns.insert(source.to_owned(), Arc::clone(&compiled));
                compiled
            }
        };
        let index = u32::try_from(part.patterns.len()).unwrap_or(u32::MAX);
        part.patterns.push(pattern);
        Ok((plinth_kong::literal_prefix(source).into_bytes().into(), Kind::Pattern(index)))
    }

    /// Sorts the parts and hands out an entry for each of their paths.
    pub fn rank(mut self, mut place: impl FnMut((Box<[u8]>, Entry), &[HostRule])) -> Vec<Part> {
        self.candidates.sort_by_key(|candidate| candidate.weight);
        let mut parts = Vec::with_capacity(self.candidates.len());
        for (rank, candidate) in self.candidates.into_iter().enumerate() {
            for (position, (key, kind)) in candidate.paths.into_iter().enumerate() {
                let order = (rank as u64) << 16 | (position as u64).min(0xffff);
                place((key, Entry { order, kind }), &candidate.hosts);
            }
            parts.push(candidate.part);
        }
        parts
    }
}

fn criteria(route: &Route) -> Result<Criteria, Error> {
    let methods: Vec<Method> =
        route.methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect();
    let mut headers = Vec::with_capacity(route.headers.len());
    for (name, values) in &route.headers {
        headers.push(HeaderRule { name: header_name(route, name)?, values: header_values(route, values)? });
    }
    let snis: Vec<HostRule> =
        route.snis.iter().map(|sni| HostRule::parse(sni.trim_end_matches('.'))).collect();
    Ok(Criteria {
        methods: (!route.methods.is_empty()).then(|| methods.into()),
        headers: headers.into(),
        snis: (!snis.is_empty()).then(|| snis.into()),
    })
}

fn header_name(route: &Route, name: &str) -> Result<HeaderName, Error> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Error::Header { route: route.label(), name: name.to_owned() })
}

fn header_values(route: &Route, values: &[String]) -> Result<HeaderValues, Error> {
    if let [only] = values
        && let Some(source) = only.strip_prefix("~*")
    {
        let pattern = Pattern::anywhere_ignoring_case(source).map_err(|why| Error::Pattern {
            route: route.label(),
            pattern: source.to_owned(),
            why,
        })?;
        return Ok(HeaderValues::Pattern(Box::new(pattern)));
    }
    Ok(HeaderValues::AnyOf(values.iter().map(|value| value.as_str().into()).collect()))
}
