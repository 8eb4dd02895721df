//! Values of JSON, appended to a line.

use std::io::Write as _;
use std::net::IpAddr;

/// A string; bytes that are no UTF-8 become replacement characters.
pub(super) fn text(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    part(line, text);
    line.push(b'"');
}

/// A part of a string.
pub(super) fn part(line: &mut Vec<u8>, text: &[u8]) {
    if as_it_is(text) {
        line.extend_from_slice(text);
    } else {
        escaped(line, &String::from_utf8_lossy(text));
    }
}

/// A string or null.
pub(super) fn optional(line: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => text(line, value.as_bytes()),
        None => line.extend_from_slice(b"null"),
    }
}

/// Each of the items, commas between them.
pub(super) fn separated<T>(
    line: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            line.push(b',');
        }
        write(line, item);
    }
}

pub(super) fn number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// An address as a string.
pub(super) fn address(line: &mut Vec<u8>, address: IpAddr) {
    line.push(b'"');
    match address {
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    line.push(b'.');
                }
                number(line, octet.into());
            }
        }
        // Writing to memory does not fail.
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
    line.push(b'"');
}

/// ASCII without anything that a string has to escape. A loop without a way out, so that it becomes vector instructions.
fn as_it_is(text: &[u8]) -> bool {
    text.iter().fold(0, |found, byte| found | odd(*byte) | u8::from(*byte == b'"')) == 0
}

/// ASCII with so many quotes, and nothing else that a string has to escape.
pub(super) fn plain_but_for_quotes(text: &[u8], quotes: usize) -> bool {
    text.iter().fold(0, |found, byte| found | odd(*byte)) == 0
        && memchr::memchr_iter(b'"', text).count() == quotes
}

/// A control character, a backslash, or not ASCII.
fn odd(byte: u8) -> u8 {
    u8::from(byte < b' ') | u8::from(byte == b'\\') | (byte & 0x80)
}

fn escaped(line: &mut Vec<u8>, text: &str) {
    for character in text.chars() {
        match character {
            '"' => line.extend_from_slice(b"\\\""),
            '\\' => line.extend_from_slice(b"\\\\"),
            '\n' => line.extend_from_slice(b"\\n"),
            '\r' => line.extend_from_slice(b"\\r"),
            '\t' => line.extend_from_slice(b"\\t"),
            control if control < ' ' => {
                let code = u32::from(control);
                // Writing to memory does not fail.
                drop(write!(line, "\\u{code:04x}"));
            }
            other => line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(write: impl Fn(&mut Vec<u8>)) -> serde_json::Value {
        let mut line = Vec::new();
        write(&mut line);
        serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    #[test]
    fn addresses_are_strings() {
        for address in ["127.0.0.1", "255.0.10.9", "::1", "2001:db8::17"] {
            assert_eq!(read(|line| super::address(line, address.parse().unwrap())), address);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(read(|line| text(line, &bytes)), &*whole);
        }

        #[test]
        fn any_text_is_read_back(before in "\\PC{0,20}", odd in "[\\x00-\\x7f]{0,12}", after in "[ -~]{0,30}") {
            let whole = format!("{before}{odd}{after}");
            prop_assert_eq!(read(|line| text(line, whole.as_bytes())), whole.as_str());
        }

        #[test]
        fn one_byte_among_plain_ones_is_seen(byte in any::<u8>(), at in 0_usize..48, length in 1_usize..49) {
            let mut bytes = vec![b'x'; length.max(at + 1)];
            bytes[at] = byte;
            let odd = !(0x20..0x80).contains(&byte) || matches!(byte, b'"' | b'\\');
            prop_assert_eq!(as_it_is(&bytes), !odd);
        }
    }
}
