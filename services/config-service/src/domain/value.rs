//! A value as the user wrote it: checked JSON text, never re-spelled (big numbers and key order stay as they are).

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

/// Largest value, in bytes of JSON text. Consul's own limit is 512 KiB and covers the whole transaction.
pub const MAX_VALUE: usize = 256 * 1024;

/// Valid JSON of at most [`MAX_VALUE`] bytes. Cheap to clone; compared byte by byte.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueFault {
    #[error("must be at most {MAX_VALUE} bytes of JSON, not {0}")]
    TooLarge(usize),
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
        Ok(Self(text.into()))
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
    fn is_not_shown_in_debug_output() {
        assert_eq!(format!("{:?}", JsonText::parse("\"hunter2\"").unwrap()), "JsonText(9 bytes)");
    }
}
