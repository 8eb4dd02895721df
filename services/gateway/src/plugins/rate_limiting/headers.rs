//! Names and values of the limit headers, made without allocating.

use std::sync::LazyLock;

use http::{HeaderName, HeaderValue};
use plinth_kong::Period;

/// `X-RateLimit-Limit-…` and `X-RateLimit-Remaining-…`.
pub(super) fn names(period: Period) -> (HeaderName, HeaderName) {
    let (limit, remaining) = match period {
        Period::Second => ("x-ratelimit-limit-second", "x-ratelimit-remaining-second"),
        Period::Minute => ("x-ratelimit-limit-minute", "x-ratelimit-remaining-minute"),
        Period::Hour => ("x-ratelimit-limit-hour", "x-ratelimit-remaining-hour"),
        Period::Day => ("x-ratelimit-limit-day", "x-ratelimit-remaining-day"),
        Period::Month => ("x-ratelimit-limit-month", "x-ratelimit-remaining-month"),
        Period::Year => ("x-ratelimit-limit-year", "x-ratelimit-remaining-year"),
    };
    (HeaderName::from_static(limit), HeaderName::from_static(remaining))
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
    fn numbers_are_themselves() {
        for value in (0..20_000).chain([u64::MAX]) {
            assert_eq!(number(value), value.to_string());
        }
    }
}
