//! Durations in Go's text form (`500ms`, `1.5s`, `1m30s`), as Consul reads and prints them.

use std::time::Duration;

/// Reads Go's form. The error is the text Go gives.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() || rest.starts_with('-') {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    let mut exact = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let value: f64 = number.parse().map_err(|_| invalid())?;
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(letters);
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000_u64,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        match number.parse::<u64>().ok().and_then(|n| n.checked_mul(nanos)) {
            Some(whole) => exact = exact.checked_add(Duration::from_nanos(whole)).ok_or_else(invalid)?,
            None => total += value * nanos as f64,
        }
        rest = next;
    }
    let rounded = Duration::from_nanos(total.round() as u64);
    exact.checked_add(rounded).filter(|d| d.as_nanos() <= i64::MAX as u128).ok_or_else(invalid)
}

/// Prints Go's form.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u128, unit: u128, name: &str| {
        let (whole, part) = (value / unit, value % unit);
        if part == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{part:0width$}");
        format!("{whole}.{}{name}", digits.trim_end_matches('0'))
    };
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return fraction(nanos, 1_000, "µs");
    }
    if nanos < 1_000_000_000 {
        return fraction(nanos, 1_000_000, "ms");
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_as_go_does() {
        for (text, nanos, printed) in [
            ("500ms", 500_000_000, "500ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90m", 5_400_000_000_000, "1h30m0s"),
            ("0", 0, "0s"),
            ("100us", 100_000, "100µs"),
            ("24h", 86_400_000_000_000, "24h0m0s"),
            ("10s", 10_000_000_000, "10s"),
        ] {
            let duration = parse(text).unwrap();
            assert_eq!(duration.as_nanos(), nanos, "{text}");
            assert_eq!(format(duration), printed);
        }
        for bad in ["", "10", "abc", "-1s", "1x", "s", "1..2s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
