//! `Cache-Control` and `Expires`, as far as proxy-cache goes by them.

use std::time::SystemTime;

use http::{HeaderMap, header};

/// The directives of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub max_stale: Option<u64>,
    pub min_fresh: Option<u64>,
}

impl Directives {
    /// Names ignore case; what is not understood is passed over.
    pub fn of(headers: &HeaderMap) -> Directives {
        let mut found = Directives::default();
        let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
        for directive in lines.flat_map(|line| line.split(',')) {
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim().trim_matches('"').parse().ok()),
                None => (directive.trim(), None),
            };
            match name.to_ascii_lowercase().as_str() {
                "no-store" => found.no_store = true,
                "no-cache" => found.no_cache = true,
                "private" => found.private = true,
                "only-if-cached" => found.only_if_cached = true,
                "max-age" => found.max_age = value,
                "s-maxage" => found.s_maxage = value,
                "max-stale" => found.max_stale = value,
                "min-fresh" => found.min_fresh = value,
                _ => {}
            }
        }
        found
    }

    /// Whether a client that sent these takes an answer of this age, which was to live `ttl` seconds.
    pub fn accepts(&self, age: u64, ttl: u64) -> bool {
        let left = ttl.saturating_sub(age);
        let stale = age.saturating_sub(ttl);
        self.max_age.is_none_or(|most| age <= most)
            && self.max_stale.is_none_or(|most| stale <= most)
            && self.min_fresh.is_none_or(|least| left >= least)
            && (stale == 0 || self.max_stale.is_some())
    }

    /// Seconds an answer with these may be kept: `s-maxage`, else `max-age`, else `Expires`.
    pub fn lifetime(&self, headers: &HeaderMap, now: SystemTime) -> u64 {
        self.s_maxage.or(self.max_age).unwrap_or_else(|| {
            let expires = headers.get_all(header::EXPIRES).iter().next_back();
            let at = expires.and_then(|at| httpdate::parse_http_date(at.to_str().ok()?).ok());
            at.and_then(|at| at.duration_since(now).ok()).map_or(0, |left| left.as_secs())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn directives_are_read() {
        let found = Directives::of(&headers(&[
            ("cache-control", "No-Store, max-age=60 ,private=\"set-cookie\""),
            ("cache-control", "s-maxage=\"5\", max-stale, x=1"),
        ]));
        let expected = Directives {
            no_store: true,
            private: true,
            max_age: Some(60),
            s_maxage: Some(5),
            ..Directives::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn lifetimes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let in_a_minute = httpdate::fmt_http_date(now + Duration::from_secs(60));
        let before = httpdate::fmt_http_date(now - Duration::from_secs(60));
        for (lines, seconds) in [
            (vec![], 0),
            (vec![("cache-control", "max-age=7")], 7),
            (vec![("cache-control", "max-age=7, s-maxage=9")], 9),
            (vec![("cache-control", "max-age=-1")], 0),
            (vec![("expires", in_a_minute.as_str())], 60),
            (vec![("expires", before.as_str())], 0),
            (vec![("expires", "0")], 0),
            (vec![("expires", &in_a_minute), ("cache-control", "max-age=5")], 5),
        ] {
            let headers = headers(&lines);
            assert_eq!(Directives::of(&headers).lifetime(&headers, now), seconds, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_survived(text in "[a-z=,\" 0-9-]{0,60}") {
            let found = Directives::of(&headers(&[("cache-control", &text)]));
            prop_assert_eq!(found.no_store, text.split(',').any(|part| part.split('=').next().unwrap().trim() == "no-store"));
        }

        #[test]
        fn an_answer_older_than_max_age_is_not_accepted(age in 0..100_u64, most in 0..100_u64) {
            let asked = Directives { max_age: Some(most), ..Directives::default() };
            prop_assert_eq!(asked.accepts(age, 1000), age <= most);
        }
    }
}
