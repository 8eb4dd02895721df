//! The claims of a token.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Scope;

/// Claims as Plinth signs and reads them; unknown ones are kept in `rest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Who the token speaks for; the owner of what it registers.
    pub sub: String,
    /// Who signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom it is: a string or a list.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub aud: Value,
    /// When it ends, seconds since 1970.
    pub exp: f64,
    /// When it was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<f64>,
    /// From when on it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<f64>,
    /// Scopes: words in one string (RFC 9068) or a list.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub scope: Value,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Claims {
    /// The scopes of the `scope` claim; `scp` counts too, since some identity providers write that.
    pub fn scopes(&self) -> Vec<Scope> {
        let extra = self.rest.get("scp").unwrap_or(&Value::Null);
        [&self.scope, extra].into_iter().flat_map(words).collect()
    }
}

fn words(value: &Value) -> Vec<Scope> {
    match value {
        Value::String(text) => Scope::parse_list(text),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).filter_map(|word| word.parse().ok()).collect()
        }
        _ => Vec::new(),
    }
}
