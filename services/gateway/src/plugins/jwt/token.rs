//! A token taken apart, nothing verified yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plinth_kong::JwtAlgorithm;
use serde_json::{Map, Value};

/// A numeric date among the claims.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stamp {
    Absent,
    NotANumber,
    /// Seconds since 1970.
    At(f64),
}

pub(super) struct Token<'t> {
    pub algorithm: JwtAlgorithm,
    /// What the signature covers.
    pub message: &'t str,
    /// base64url.
    pub signature: &'t str,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl<'t> Token<'t> {
    /// # Errors
    /// Kong's words: "invalid JSON", "invalid alg", "invalid signature" (one that is not base64url).
    pub fn parse(text: &'t str) -> Result<Token<'t>, &'static str> {
        let (header, rest) = text.split_once('.').ok_or("invalid JSON")?;
        let (claims, signature) = rest.split_once('.').ok_or("invalid JSON")?;
        let message = text.get(..header.len() + 1 + claims.len()).ok_or("invalid JSON")?;
        let header = object(header).ok_or("invalid JSON")?;
        let claims = object(claims).ok_or("invalid JSON")?;
        let algorithm =
            header.get("alg").and_then(Value::as_str).and_then(super::algorithm).ok_or("invalid alg")?;
        let signature = signature.trim_end_matches('=');
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| "invalid signature")?;
        Ok(Token { algorithm, message, signature, header, claims })
    }

    /// The credential's key: looked for in the claims, then in the header. Present but unusable is the empty string.
    pub fn key(&self, name: &str) -> Option<String> {
        let value = self.claims.get(name).or_else(|| self.header.get(name))?;
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => Some(String::new()),
        }
    }

    pub fn stamp(&self, name: &str) -> Stamp {
        match self.claims.get(name) {
            None | Some(Value::Null) => Stamp::Absent,
            Some(value) => value.as_f64().map_or(Stamp::NotANumber, Stamp::At),
        }
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}
