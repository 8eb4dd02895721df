//! Parts of routes, ranked. A route whose paths differ in length, or mix prefixes and expressions, competes once for each kind.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use http::{HeaderName, Method};
use plinth_kong::{Pattern, Route};

use super::hosts::HostRule;
use super::tree::{Entry, Keyed, Kind, Rank};
use super::{Ask, Error};

/// Everything a request has to fulfil besides host and prefix.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// What the router was told the route is called.
    pub route: usize,
    criteria: Arc<Criteria>,
    patterns: Box<[PathPattern]>,
}

/// A path expression. Simple ones are compiled when they are first tried: of ten thousand most never are.
#[derive(Debug)]
struct PathPattern {
    source: Box<str>,
    compiled: OnceLock<Option<Pattern>>,
}

impl PathPattern {
    fn new(route: &Route, source: &str) -> Result<PathPattern, Error> {
        let compiled = OnceLock::new();
        if !is_simple(source) {
            let pattern = Pattern::anchored(source).map_err(|why| Error::Pattern {
                route: route.label(),
                pattern: source.to_owned(),
                why,
            })?;
            compiled.get_or_init(|| Some(pattern));
        }
        Ok(PathPattern { source: source.into(), compiled })
    }

    fn get(&self) -> Option<&Pattern> {
        self.compiled.get_or_init(|| Pattern::anchored(&self.source).ok()).as_ref()
    }
}

/// Short and without counted repetitions or many classes: once its syntax is right (the loader saw to that), it compiles, and
/// in much less than a millisecond.
fn is_simple(source: &str) -> bool {
    source.len() <= 200
        && !source.contains(['{', '}'])
        && !source.contains("(?")
        && source.matches('\\').count() <= 6
        && source.is_ascii()
}

#[derive(Debug, Default)]
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
        self.miss(ask).is_none()
    }

    /// The first criterion of these that a request does not fulfil.
    pub fn miss(&self, ask: &Ask<'_>) -> Option<&'static str> {
        let criteria = &*self.criteria;
        if criteria.methods.as_ref().is_some_and(|methods| !methods.contains(ask.method)) {
            return Some("methods");
        }
        if !criteria.headers.iter().all(|rule| rule.admits(ask)) {
            return Some("headers");
        }
        let snis = criteria.snis.as_ref().filter(|_| ask.https);
        let fits = snis.is_none_or(|snis| ask.sni.is_some_and(|sni| sni_fits(snis, sni)));
        (!fits).then_some("snis")
    }

    /// How much of the path an entry of this part matches.
    pub fn path_match(&self, entry: &Entry, path: &str) -> Option<usize> {
        match entry.kind {
            Kind::Any => Some(0),
            Kind::Prefix(len) => Some(len as usize),
            Kind::Pattern(index) => self.patterns.get(index as usize)?.get()?.match_len(path),
        }
    }

    pub fn captures(&self, pattern: u32, path: &str) -> Vec<(Arc<str>, String)> {
        let Some(pattern) = self.patterns.get(pattern as usize).and_then(PathPattern::get) else {
            return Vec::new();
        };
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
    /// The same order in one number: three bits of kinds, one for plain hosts, eight of headers, one for expressions, and
    /// then the priority of an expression or the length of a prefix, which never meet.
    pub fn packed(&self) -> u64 {
        let small = |count: usize, most: u64| most - (count as u64).min(most);
        let last = if self.pattern.0 {
            u64::from(u32::MAX) - (i64::from(self.regex_priority.0) - i64::from(i32::MIN)).unsigned_abs()
        } else {
            small(self.length.0, u64::from(u32::MAX))
        };
        small(self.kinds.0, 7) << 42
            | u64::from(!self.plain_hosts.0) << 41
            | small(self.headers.0, 255) << 33
            | u64::from(!self.pattern.0) << 32
            | last
    }

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

/// A route's hosts, and its paths as they stand under each of them.
pub(super) struct Placed {
    pub hosts: Vec<HostRule>,
    pub paths: Vec<Keyed>,
}

/// Everything a route puts into the router.
pub(super) fn place(name: usize, route: &Route) -> Result<Placed, Error> {
    let criteria = Arc::new(criteria(route)?);
    let mut paths = Vec::new();
    for group in groups(route) {
        let mut patterns = Vec::new();
        for path in group.iter().filter_map(|path| path.strip_prefix('~')) {
            patterns.push(PathPattern::new(route, path)?);
        }
        let part = Arc::new(Part { route: name, criteria: Arc::clone(&criteria), patterns: patterns.into() });
        paths.extend(
            keys(route, &group)
                .into_iter()
                .map(|(key, rank, kind)| (key, Entry { rank, kind, part: Arc::clone(&part) })),
        );
    }
    Ok(Placed { hosts: hosts(route), paths })
}

/// Where a route's paths stand: to take them out again.
pub(super) fn places(route: &Route) -> impl Iterator<Item = (Box<[u8]>, Rank)> {
    groups(route).into_iter().flat_map(|group| keys(route, &group)).map(|(key, rank, _)| (key, rank))
}

pub(super) fn hosts(route: &Route) -> Vec<HostRule> {
    if route.hosts.is_empty() {
        return vec![HostRule::Any];
    }
    let mut hosts: Vec<HostRule> = route.hosts.iter().map(|host| HostRule::parse(host)).collect();
    // A host given twice must not put the route in twice.
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Keys of the paths of one group. An expression stands at the text all its matches begin with.
fn keys(route: &Route, group: &[&str]) -> Vec<(Box<[u8]>, Rank, Kind)> {
    let weight = Weight::new(route, group).packed();
    let rank = |place: usize| Rank {
        weight,
        id: !route.id.as_u128(),
        place: u16::try_from(place).unwrap_or(u16::MAX),
    };
    if group.is_empty() {
        return vec![(Box::default(), rank(0), Kind::Any)];
    }
    let mut expressions = 0_u32;
    let key = |(place, path): (usize, &&str)| match path.strip_prefix('~') {
        Some(source) => {
            expressions += 1;
            let key = plinth_kong::literal_prefix(source).into_bytes();
            (key.into(), rank(place), Kind::Pattern(expressions - 1))
        }
        None => {
            let prefix = plinth_kong::encode_path(path);
            let length = u32::try_from(prefix.len()).unwrap_or(u32::MAX);
            (prefix.as_bytes().into(), rank(place), Kind::Prefix(length))
        }
    };
    group.iter().enumerate().map(key).collect()
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
