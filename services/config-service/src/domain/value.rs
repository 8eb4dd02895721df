//! A value as the user wrote it: checked JSON text, never re-spelled (big numbers and key order stay as they are).

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

/// Largest value, in bytes of JSON text. Consul's own limit is 512 KiB and covers the whole transaction.
pub const MAX_VALUE: usize = 256 * 1024;

/// Deepest nesting of lists and objects: most parsers end at 128 levels, and a list of items has some around a value. One that
/// is deeper would spoil what all readers of its environment get.
pub const MAX_DEPTH: usize = 100;

/// Valid JSON of at most [`MAX_VALUE`] bytes and [`MAX_DEPTH`] levels. Cheap to clone; compared byte by byte.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    #[error("must be at most {MAX_VALUE} bytes of JSON, not {0}")]
    TooLarge(usize),
    #[error("must be nested at most {MAX_DEPTH} levels deep, not {0}")]
    TooDeep(usize),
    #[error("is not JSON")]
    NotJson,
}

impl JsonText {
    /// # Errors
    /// [`ValueFault`]
    pub fn parse(text: &str) -> Result<Self, ValueFault> {
        let text = text.trim();
        if text.len() > MAX_VALUE {
            return Err(ValueFault::TooLarge(text.len()));
        }
        serde_json::from_str::<&RawValue>(text).map_err(|_| ValueFault::NotJson)?;
        match depth(text) {
            deep if deep > MAX_DEPTH => Err(ValueFault::TooDeep(deep)),
            _ => Ok(Self(text.into())),
        }
    }

    /// # Errors
    /// [`ValueFault`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ValueFault> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| ValueFault::NotJson)?)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Of valid JSON.
fn depth(json: &str) -> usize {
    let (mut now, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

impl Serialize for JsonText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl fmt::Debug for JsonText {
    /// The length only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonText({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_spelling() {
        for text in ["{\"b\":1,\"a\":2}", "12345678901234567890123", "1.10", "\"x\"", "null", "[ 1, 2 ]"] {
            let value = JsonText::parse(&format!("  {text}\n")).unwrap();
            assert_eq!(value.as_str(), text);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_json_or_too_large() {
        for bad in ["", "{", "nope", "{} {}", "'x'"] {
            assert_eq!(JsonText::parse(bad), Err(ValueFault::NotJson), "{bad}");
        }
        assert_eq!(JsonText::from_bytes(&[0xff]), Err(ValueFault::NotJson));
        let exact = format!("\"{}\"", "x".repeat(MAX_VALUE - 2));
        assert!(JsonText::parse(&exact).is_ok());
        assert_eq!(JsonText::parse(&format!("\"x{}", &exact[1..])), Err(ValueFault::TooLarge(MAX_VALUE + 1)));
    }

    #[test]
    fn refuses_what_readers_would_choke_on() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(JsonText::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(JsonText::parse(&nested(MAX_DEPTH + 1)), Err(ValueFault::TooDeep(MAX_DEPTH + 1)));
        assert_eq!(JsonText::parse(&nested(50_000)), Err(ValueFault::TooDeep(50_000)));
        let text = format!(r#"{{"a\\":"\"{}","b":[]}}"#, "[".repeat(200));
        assert_eq!(depth(&text), 2, "brackets in a text are text");
        assert!(JsonText::parse(&text).is_ok());
    }

    #[test]
    fn is_not_shown_in_debug_output() {
        assert_eq!(format!("{:?}", JsonText::parse("\"hunter2\"").unwrap()), "JsonText(9 bytes)");
    }
}
