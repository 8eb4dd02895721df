//! The query part of a request: pairs, and the options every read understands.

use std::ops::Range;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::reply::Reply;
use crate::duration;

/// Waits when the client names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(5 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

/// Decoded pairs in the order given, as places in one text: every request makes one of these.
#[derive(Debug, Default)]
pub struct Query {
    text: String,
    pairs: Vec<(Range<usize>, Range<usize>)>,
}

impl Query {
    pub fn parse(raw: &str) -> Query {
        let mut query = Query { text: String::with_capacity(raw.len()), pairs: Vec::new() };
        for pair in raw.split(['&', ';']).filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let places = (query.add(name), query.add(value));
            query.pairs.push(places);
        }
        query
    }

    fn add(&mut self, part: &str) -> Range<usize> {
        let start = self.text.len();
        if part.bytes().any(|b| b == b'+' || b == b'%') {
            let spaced = part.replace('+', " ");
            self.text.push_str(&percent_decode_str(&spaced).decode_utf8_lossy());
        } else {
            self.text.push_str(part);
        }
        start..self.text.len()
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn has(&self, name: &str) -> bool {
        self.pairs().any(|(n, _)| n == name)
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The first value that is not empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.pairs().filter(move |(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Sorted and encoded again, as Consul prints it in errors.
    pub fn sorted(&self) -> String {
        let mut pairs: Vec<_> = self.pairs().collect();
        pairs.sort();
        let encode = |s: &str| {
            percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
                .replace("%2D", "-")
                .replace("%5F", "_")
                .replace("%2E", ".")
                .replace("%7E", "~")
        };
        pairs.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect::<Vec<_>>().join("&")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Leader,
    Stale,
    Consistent,
}

impl Consistency {
    /// In their order.
    pub const ALL: [Consistency; 3] = [Consistency::Leader, Consistency::Stale, Consistency::Consistent];

    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Leader => "leader",
            Consistency::Stale => "stale",
            Consistency::Consistent => "consistent",
        }
    }
}

/// What a read asked for.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Block while the result's index is not beyond this; 0 does not block.
    pub index: u64,
    /// How long to block, jitter included.
    pub wait: Duration,
    pub consistency: Consistency,
}

impl ReadOptions {
    pub fn parse(query: &Query) -> Result<ReadOptions, Reply> {
        if query.is_empty() {
            return Ok(ReadOptions { index: 0, wait: DEFAULT_WAIT, consistency: Consistency::Leader });
        }
        let consistency = consistency(query)?;
        Ok(ReadOptions { consistency, ..ReadOptions::waiting(query)? })
    }

    /// Only how long to wait and for what: some endpoints have no consistency to choose.
    pub fn waiting(query: &Query) -> Result<ReadOptions, Reply> {
        let wait = match query.filled("wait") {
            None => DEFAULT_WAIT,
            // no time at all is the default
            Some(text) => match time(text).ok_or_else(|| Reply::bad("Invalid wait time"))? {
                Duration::ZERO => DEFAULT_WAIT,
                wait => wait.min(LONGEST_WAIT),
            },
        };
        let index = match query.filled("index") {
            None => 0,
            // Go takes no sign
            Some(text) if text.starts_with('+') => return Err(Reply::bad("Invalid index")),
            Some(text) => text.parse().map_err(|_| Reply::bad("Invalid index"))?,
        };
        // who does not wait needs no jitter
        let jitter = if index == 0 { Duration::ZERO } else { wait.mul_f64(fastrand::f64() / 16.0) };
        Ok(ReadOptions { index, wait: wait + jitter, consistency: Consistency::Leader })
    }
}

/// Go reads negative times; those count as none at all.
fn time(text: &str) -> Option<Duration> {
    match text.strip_prefix('-') {
        Some(rest) if rest.starts_with('+') => None,
        Some(rest) => duration::parse(rest).ok().map(|_| Duration::ZERO),
        None => duration::parse(text).ok(),
    }
}

fn consistency(query: &Query) -> Result<Consistency, Reply> {
    let conflict =
        |with: &str| Reply::bad(&format!("Cannot specify ?{with} with ?consistent, conflicting semantics."));
    let consistent = query.has("consistent");
    let oldest = match query.filled("max_stale") {
        None => Duration::ZERO,
        Some(text) => time(text).ok_or_else(|| Reply::bad(&format!("Invalid max_stale value {text:?}")))?,
    };
    let stale = query.has("stale") || !oldest.is_zero();
    if consistent && stale {
        return Err(conflict("stale"));
    }
    if consistent && query.has("cached") {
        return Err(conflict("cached"));
    }
    Ok(if consistent {
        Consistency::Consistent
    } else if stale {
        Consistency::Stale
    } else {
        Consistency::Leader
    })
}
