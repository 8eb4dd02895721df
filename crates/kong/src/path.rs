//! The normal form in which request paths and route prefixes are compared.

use std::borrow::Cow;

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Bytes that stand in a path as they are: unreserved ones, delimiters and the percent sign.
fn may_stand(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'/' | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
                | b'%'
                | b'['
                | b']'
                | b'?'
                | b'#'
        )
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)] as char);
    out.push(DIGITS[usize::from(byte & 15)] as char);
}

/// True when [`normalize`] would give the path back unchanged: the common case, decided in one pass without allocating.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut previous = 0_u8;
    for (at, &byte) in path.iter().enumerate() {
        let fine = match byte {
            b'%' => false,
            b'/' => previous != b'/',
            b'.' => previous != b'/' || !is_dot_segment(&path[at..]),
            _ => may_stand(byte),
        };
        if !fine {
            return false;
        }
        previous = byte;
    }
    true
}

/// The rest of a path begins with a segment that is `.` or `..`.
fn is_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, b"." | b".." | [b'.', b'/', ..] | [b'.', b'.', b'/', ..])
}

/// Percent-encodes what may not stand in a path (spaces, braces, bytes beyond ASCII); everything else stays.
pub fn encode(path: &str) -> Cow<'_, str> {
    if path.bytes().all(may_stand) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len() + 8);
    for byte in path.bytes() {
        if may_stand(byte) { out.push(byte as char) } else { push_encoded(&mut out, byte) }
    }
    Cow::Owned(out)
}

/// Unreserved characters decoded, all others percent-encoded with upper-case digits, repeated slashes merged, `.` and `..`
/// resolved (never above the root). Borrowed when nothing changes.
pub fn normalize(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(resolve(&recode(path.as_bytes())))
}

fn recode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes.get(at + 1).copied().and_then(hex).zip(bytes.get(at + 2).copied().and_then(hex));
        match (byte, pair) {
            (b'%', Some((high, low))) => {
                let value = high << 4 | low;
                if is_unreserved(value) {
                    out.push(value as char)
                } else {
                    push_encoded(&mut out, value)
                }
                at += 3;
                continue;
            }
            // A stray percent sign stays one, encoded, so that normalising twice changes nothing.
            (b'%', None) => push_encoded(&mut out, b'%'),
            _ if may_stand(byte) => out.push(byte as char),
            _ => push_encoded(&mut out, byte),
        }
        at += 1;
    }
    out
}

fn resolve(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    let trailing = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    if trailing || out.is_empty() {
        out.push('/');
    }
    out
}

/// How 1.1 and 2.1 files become 3.0: a path with a character outside `[A-Za-z0-9._~/%-]` is a regular expression, others are
/// normalised.
pub(crate) fn migrate(path: &str) -> String {
    if path.starts_with('~') {
        return path.to_owned();
    }
    if path.bytes().all(|b| is_unreserved(b) || b == b'/' || b == b'%') {
        return normalize(path).into_owned();
    }
    format!("~{path}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_form() {
        for (given, expected) in [
            ("/", "/"),
            ("", "/"),
            ("/a/b", "/a/b"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/../../x", "/x"),
            ("/%7euser/%41", "/~user/A"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%20b", "/a%20b"),
            ("/a b", "/a%20b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/movies/{id}", "/movies/%7Bid%7D"),
            ("/.hidden/..x/...", "/.hidden/..x/..."),
            ("/%2e%2e/x", "/x"),
            ("/100%", "/100%25"),
        ] {
            assert_eq!(normalize(given), expected, "{given}");
        }
        assert!(matches!(normalize("/api/v1/users"), Cow::Borrowed(_)));
    }

    #[test]
    fn old_formats_guess_regular_expressions() {
        assert_eq!(migrate("/users/\\d+$"), "~/users/\\d+$");
        assert_eq!(migrate("/movies/{id}"), "~/movies/{id}");
        assert_eq!(migrate("/a//b"), "/a/b");
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[ -~é]{0,40}") {
            let once = normalize(&path).into_owned();
            prop_assert_eq!(normalize(&once).into_owned(), once);
        }
    }
}
