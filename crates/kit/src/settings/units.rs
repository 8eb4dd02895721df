//! Durations and sizes as people write them.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const EXPECTED_DURATION: &str = "expected a duration such as 500ms, 10s, 1m, 1h30m or 7d";

/// Parses `500ms`, `10s`, `1m`, `1h30m`, `7d`; each unit at most once, larger before smaller; a plain `0` is zero.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(letters);
        let Some((_, millis)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(EXPECTED_DURATION.to_owned());
        };
        if *millis >= smallest {
            return Err(format!("{EXPECTED_DURATION}, larger units first"));
        }
        smallest = *millis;
        let count: u64 = number.parse().map_err(|_| EXPECTED_DURATION.to_owned())?;
        let part = count.checked_mul(*millis).ok_or_else(|| "the duration is too long".to_owned())?;
        total = total.checked_add(part).ok_or_else(|| "the duration is too long".to_owned())?;
        rest = next;
    }
    if smallest == u64::MAX { Err(EXPECTED_DURATION.to_owned()) } else { Ok(Duration::from_millis(total)) }
}

/// The shortest spelling that [`parse_duration`] reads back to the same value (whole milliseconds).
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (name, size) in DURATION_UNITS.iter().rev() {
        if millis >= *size {
            text.push_str(&format!("{}{name}", millis / size));
            millis %= size;
        }
    }
    text
}

/// Parses sizes: `1048576`, `64KiB`, `2MiB`, `1GiB`, also `64KB` and `2MB` (powers of ten).
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size in bytes such as 1048576, 64KiB, 2MiB or 1GB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let count: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
    let size: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED.to_owned()),
    };
    count.checked_mul(size).ok_or_else(|| "the size is too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in ["", "10", "s", "-1s", "1.5s", "1m1h", "1s1s", "10 s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(parse_bytes("64KiB"), Ok(65_536));
        assert_eq!(parse_bytes("2 MB"), Ok(2_000_000));
        for bad in ["", "KiB", "1TiBx", "-1", "99999999999GiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?} must be refused");
        }
    }

    proptest! {
        #[test]
        fn formatting_reads_back(millis in any::<u32>()) {
            let duration = Duration::from_millis(u64::from(millis));
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }
    }
}
