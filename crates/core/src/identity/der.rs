//! The one field of a certificate that no library here hands out: when it ends.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls_pki_types::CertificateDer;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// `notAfter` of a certificate; none when it is not one.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, outer, _) = element(certificate.as_ref(), SEQUENCE)?;
    let (_, mut fields, _) = element(outer, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields, VERSION)?.2;
    }
    // serial number, signature algorithm, issuer
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.2;
    }
    let (_, validity, _) = element(fields, SEQUENCE)?;
    let (_, _, not_after) = any(validity)?;
    let (tag, text, _) = any(not_after)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// Tag, content and what follows; only if the tag is this one.
fn element(bytes: &[u8], tag: u8) -> Option<(u8, &[u8], &[u8])> {
    any(bytes).filter(|(found, ..)| *found == tag)
}

fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        long => {
            let count = usize::from(*long & 0x7f);
            let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
            let length = digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit));
            (length, rest.get(count..)?)
        }
    };
    Some((*tag, rest.get(..length)?, rest.get(length..)?))
}

/// `YYMMDDHHMMSSZ` (1950 to 2049) or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    let at = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    at.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn both_kinds_of_time() {
        for (year, text) in [(2049, "2049-03-04T00:00:00Z"), (2050, "2050-03-04T00:00:00Z")] {
            let mut params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 3, 4);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(expiry(certificate.der()), Some(text.parse().unwrap()));
        }
    }

    #[test]
    fn what_is_no_certificate() {
        let certificate = CertificateParams::new(vec!["x".to_owned()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap();
        for cut in [0, 1, 4, 20, 60] {
            assert_eq!(expiry(&CertificateDer::from(&certificate.der()[..cut])), None, "{cut}");
        }
        assert_eq!(expiry(&CertificateDer::from(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff][..])), None);
    }
}
