//! Formats that are checked. All others say what a value is for and refuse nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Number;

/// A format of numbers or texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Int32,
    Int64,
    Date,
    DateTime,
    Email,
    Ipv4,
    Ipv6,
    Uuid,
}

impl Format {
    const ALL: [Format; 8] = [
        Format::Int32,
        Format::Int64,
        Format::Date,
        Format::DateTime,
        Format::Email,
        Format::Ipv4,
        Format::Ipv6,
        Format::Uuid,
    ];

    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::Int32 => "int32",
            Format::Int64 => "int64",
            Format::Date => "date",
            Format::DateTime => "date-time",
            Format::Email => "email",
            Format::Ipv4 => "ipv4",
            Format::Ipv6 => "ipv6",
            Format::Uuid => "uuid",
        }
    }

    pub fn fits_number(self, number: &Number) -> bool {
        let float = number.as_f64().unwrap_or_default();
        match self {
            Format::Int32 => float >= f64::from(i32::MIN) && float <= f64::from(i32::MAX),
            Format::Int64 => number.is_i64() || (!number.is_u64() && float.abs() < 9.3e18),
            _ => true,
        }
    }

    pub fn fits_text(self, text: &str) -> bool {
        match self {
            Format::Int32 | Format::Int64 => true,
            Format::Date => is_date(text),
            Format::DateTime => is_date_time(text),
            Format::Email => text.rsplit_once('@').is_some_and(|(name, host)| {
                !name.is_empty() && !host.is_empty() && !text.chars().any(char::is_whitespace)
            }),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Uuid => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        }
    }
}

/// A number of exactly `digits` digits.
fn number(text: &str, digits: usize) -> Option<u32> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// `2026-02-28`.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let date = || {
        Some((number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?, parts.next()))
    };
    let mut date = date;
    let Some((year, month, day, None)) = date() else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => 0,
    };
    (1..=days).contains(&day)
}

/// RFC 3339: `2026-02-28T23:59:60.5+02:00`.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't', ' ']) else { return false };
    let Some(at) = time.find(['Z', 'z', '+', '-']) else { return false };
    let (clock, zone) = time.split_at(at);
    let zone = match zone {
        "Z" | "z" => true,
        other => other.get(1..).and_then(|zone| zone.split_once(':')).is_some_and(|(hours, minutes)| {
            number(hours, 2).is_some_and(|hours| hours < 24)
                && number(minutes, 2).is_some_and(|minutes| minutes < 60)
        }),
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let mut within =
        |most: u32| parts.next().and_then(|part| number(part, 2)).is_some_and(|part| part <= most);
    is_date(date)
        && within(23)
        && within(59)
        && within(60)
        && parts.next().is_none()
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
        && zone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            (
                "date",
                &["2024-02-29", "2026-12-31"][..],
                &["2023-02-29", "2026-13-01", "26-1-1", "2026-01-01-"][..],
            ),
            (
                "date-time",
                &["2026-02-28T23:59:60Z", "2026-02-28t01:02:03.25+02:00"],
                &["2026-02-28", "2026-02-28T24:00:00Z", "2026-02-28T01:02:03", "2026-02-28T01:02:03.Z"],
            ),
            ("email", &["a@b", "a.b+c@d.example"], &["a", "@b", "a@", "a b@c"]),
            ("ipv4", &["10.0.0.1"], &["10.0.0", "10.0.0.256", "::1"]),
            ("ipv6", &["::1", "2001:db8::7"], &["10.0.0.1", "2001:db8"]),
            (
                "uuid",
                &["3d813cbb-47fb-32ba-91df-831e1593ac29"],
                &["3d813cbb47fb32ba91df831e1593ac29", "x", "3d813cbb-47fb-32ba-91df-831e1593ac2"],
            ),
        ] {
            let format = Format::named(format).unwrap();
            for text in good {
                assert!(format.fits_text(text), "{} {text}", format.name());
            }
            for text in bad {
                assert!(!format.fits_text(text), "{} {text}", format.name());
            }
        }
        let int32 = |number: i64| Format::Int32.fits_number(&number.into());
        assert!(int32(2_147_483_647) && !int32(2_147_483_648) && int32(-2_147_483_648));
        assert!(!Format::Int64.fits_number(&Number::from(u64::MAX)));
        assert!(Format::named("password").is_none());
    }
}
