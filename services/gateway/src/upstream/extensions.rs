//! What Plinth's upstreams can do beyond Kong's, asked for by tags of the upstream, so that the file stays one that
//! Kong reads:
//!
//! ```yaml
//! upstreams:
//! - name: orders
//!   tags:
//!   - plinth.algorithm:random
//!   - plinth.sticky-cookie:orders-place
//!   - plinth.breaker:ratio=50;volume=20;window=10s;open=5s;trials=1
//!   - plinth.outlier:failures=5;time=30s;most=50
//! ```

use std::sync::Arc;
use std::time::Duration;

use plinth_core::balance::Algorithm;
use plinth_kit::settings::parse_duration;

/// Every tag of ours begins so; other tags are the user's own.
const PREFIX: &str = "plinth.";

/// Settings beyond Kong's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extensions {
    /// In place of the upstream's `algorithm`.
    pub algorithm: Option<Algorithm>,
    /// Name of the cookie that keeps a session at its target.
    pub sticky_cookie: Option<Arc<str>>,
    /// A circuit breaker for each target.
    pub breaker: Option<Breaker>,
    /// Targets that keep failing leave for a while.
    pub outlier: Option<Outlier>,
}

/// A target whose requests fail too often gets none for a while, then a few to try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// Percent of failed requests that opens it, 1 to 100; 50 by default.
    pub ratio: u32,
    /// Requests within the window below which it stays closed; 20 by default.
    pub volume: u32,
    /// What is counted: the last this long; 10 s by default.
    pub window: Duration,
    /// How long it stays open; 5 s by default. A trial that fails opens it again for as long.
    pub open: Duration,
    /// Requests let through at once while it is half open, and that must succeed to close it; 1 by default.
    pub trials: u32,
}

/// Targets that fail several times in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlier {
    /// Failures in a row; 5 by default.
    pub failures: u32,
    /// How long the first ejection lasts, each further one that much longer; 30 s by default.
    pub time: Duration,
    /// At most this percentage of the targets is out at once (but always one may be); 50 by default.
    pub most: u32,
}

/// A tag of ours that says nothing usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tag {tag:?}: {why}")]
pub struct BadTag {
    /// The tag.
    pub tag: String,
    /// What is wrong with it.
    pub why: String,
}

impl Extensions {
    /// Reads them out of an upstream's tags.
    ///
    /// # Errors
    /// A tag that begins with `plinth.` and is none of those above, or has a bad value.
    pub fn read(tags: &[String]) -> Result<Self, BadTag> {
        let mut read = Self::default();
        for tag in tags {
            if let Some(own) = tag.strip_prefix(PREFIX) {
                read.take(own).map_err(|why| BadTag { tag: tag.clone(), why })?;
            }
        }
        if read.sticky_cookie.is_some() && read.algorithm.is_some_and(|named| named != Algorithm::Sticky) {
            let tag = format!("{PREFIX}algorithm");
            return Err(BadTag { tag, why: "with a sticky cookie the algorithm is sticky".to_owned() });
        }
        Ok(read)
    }

    fn take(&mut self, own: &str) -> Result<(), String> {
        let (name, value) = own.split_once(':').unwrap_or((own, ""));
        match name {
            "algorithm" => self.algorithm = Some(value.parse().map_err(|error| format!("{error}"))?),
            "sticky-cookie" => {
                let token = !value.is_empty()
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
                if !token {
                    return Err(format!(
                        "{value:?} is not a cookie name of letters, digits, '-', '_' and '.'"
                    ));
                }
                self.sticky_cookie = Some(value.into());
            }
            "breaker" => self.breaker = Some(Breaker::read(value)?),
            "outlier" => self.outlier = Some(Outlier::read(value)?),
            _ => return Err("no such setting: algorithm, sticky-cookie, breaker, outlier".to_owned()),
        }
        Ok(())
    }

    /// What the gateway's own algorithm is, given Kong's.
    #[must_use]
    pub fn algorithm(&self, of_kong: Algorithm) -> Algorithm {
        match &self.sticky_cookie {
            Some(_) => Algorithm::Sticky,
            None => self.algorithm.unwrap_or(of_kong),
        }
    }
}

impl Breaker {
    fn read(text: &str) -> Result<Self, String> {
        let mut breaker = Self {
            ratio: 50,
            volume: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            trials: 1,
        };
        each(text, |name, value| match name {
            "ratio" => number(value, 1, 100).map(|ratio| breaker.ratio = ratio),
            "volume" => number(value, 1, 1_000_000).map(|volume| breaker.volume = volume),
            "window" => time(value).map(|window| breaker.window = window),
            "open" => time(value).map(|open| breaker.open = open),
            "trials" => number(value, 1, 1000).map(|trials| breaker.trials = trials),
            _ => Err("no such part: ratio, volume, window, open, trials".to_owned()),
        })?;
        Ok(breaker)
    }
}

impl Outlier {
    fn read(text: &str) -> Result<Self, String> {
        let mut outlier = Self { failures: 5, time: Duration::from_secs(30), most: 50 };
        each(text, |name, value| match name {
            "failures" => number(value, 1, 1000).map(|failures| outlier.failures = failures),
            "time" => time(value).map(|time| outlier.time = time),
            "most" => number(value, 1, 100).map(|most| outlier.most = most),
            _ => Err("no such part: failures, time, most".to_owned()),
        })?;
        Ok(outlier)
    }
}

/// `name=value;name=value`
fn each(text: &str, mut part: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), String> {
    for one in text.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, value) = one.split_once('=').ok_or_else(|| format!("{one:?} is not NAME=VALUE"))?;
        part(name.trim(), value.trim()).map_err(|why| format!("{one:?}: {why}"))?;
    }
    Ok(())
}

fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("not a number from {least} to {most}"))
}

fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let sane = Duration::from_millis(10)..=Duration::from_secs(86_400);
    if sane.contains(&time) { Ok(time) } else { Err("not between 10ms and 24h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tags: &[&str]) -> Result<Extensions, BadTag> {
        Extensions::read(&tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn tags_are_read_and_others_left_alone() {
        assert_eq!(read(&["team:orders", "plinth"]).unwrap(), Extensions::default());
        let all = read(&[
            "plinth.sticky-cookie:place",
            "plinth.breaker:ratio=20;volume=5;open=200ms",
            "plinth.outlier",
        ])
        .unwrap();
        assert_eq!(all.algorithm(Algorithm::RoundRobin), Algorithm::Sticky);
        let breaker = all.breaker.unwrap();
        assert_eq!((breaker.ratio, breaker.volume, breaker.trials), (20, 5, 1));
        assert_eq!((breaker.window, breaker.open), (Duration::from_secs(10), Duration::from_millis(200)));
        assert_eq!(all.outlier.unwrap().failures, 5);
        let random = read(&["plinth.algorithm:random"]).unwrap();
        assert_eq!(random.algorithm(Algorithm::LeastConnections), Algorithm::Random);
    }

    #[test]
    fn bad_tags_say_what_would_be_right() {
        for (tag, part) in [
            ("plinth.brekaer", "breaker"),
            ("plinth.breaker:ratio=0", "1 to 100"),
            ("plinth.breaker:half", "NAME=VALUE"),
            ("plinth.breaker:size=3", "volume"),
            ("plinth.outlier:time=soon", "time"),
            ("plinth.algorithm:best", "least-connections"),
            ("plinth.sticky-cookie:a b", "cookie name"),
        ] {
            let error = read(&[tag]).unwrap_err().to_string();
            assert!(error.contains(tag.split(':').next().unwrap()) && error.contains(part), "{tag}: {error}");
        }
        assert!(read(&["plinth.sticky-cookie:a", "plinth.algorithm:random"]).is_err());
    }
}
