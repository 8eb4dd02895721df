//! Names and values of the limit headers, made without allocating.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};
use plinth_kong::Period;

/// `X-RateLimit-Limit-…` and `X-RateLimit-Remaining-…` by period.
static NAMES: [(HeaderName, HeaderName); 6] = [
    pair("x-ratelimit-limit-second", "x-ratelimit-remaining-second"),
    pair("x-ratelimit-limit-minute", "x-ratelimit-remaining-minute"),
    pair("x-ratelimit-limit-hour", "x-ratelimit-remaining-hour"),
    pair("x-ratelimit-limit-day", "x-ratelimit-remaining-day"),
    pair("x-ratelimit-limit-month", "x-ratelimit-remaining-month"),
    pair("x-ratelimit-limit-year", "x-ratelimit-remaining-year"),
];

const fn pair(limit: &'static str, remaining: &'static str) -> (HeaderName, HeaderName) {
    (HeaderName::from_static(limit), HeaderName::from_static(remaining))
}

/// The names for a period.
pub(super) fn names(period: Period) -> (HeaderName, HeaderName) {
    NAMES[period as usize].clone()
}

/// Numbers below this are written once for all.
const FEW: usize = 10_000;
const DIGITS: usize = 4;

/// All of them, four characters each.
static TEXT: LazyLock<String> =
    LazyLock::new(|| (0..FEW).map(|number| format!("{number:>DIGITS$}")).collect());

/// A number as a header value.
pub(in crate::plugins) fn number(number: u64) -> HeaderValue {
    let Some(at) = usize::try_from(number).ok().filter(|at| *at < FEW) else {
        return HeaderValue::from(number);
    };
    let text: &'static str = &TEXT;
    let cell = text.get(at * DIGITS..(at + 1) * DIGITS).unwrap_or_default();
    HeaderValue::from_static(cell.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_period() {
        use Period::{Day, Hour, Minute, Month, Second, Year};
        for period in [Second, Minute, Hour, Day, Month, Year] {
            let (limit, remaining) = names(period);
            assert_eq!(limit.as_str(), format!("x-ratelimit-limit-{}", period.as_str()));
            assert_eq!(remaining.as_str(), format!("x-ratelimit-remaining-{}", period.as_str()));
        }
    }

    #[test]
    fn numbers_are_themselves() {
        for value in (0..20_000).chain([u64::MAX]) {
            assert_eq!(number(value), value.to_string());
        }
    }
}
