//! What two requests must have in common to get the same kept answer.

use aws_lc_rs::digest::{Context, SHA256};
use http::{HeaderName, HeaderValue};
use plinth_kong::ProxyCacheConfig;

use crate::context::RequestContext;
use crate::plugins::body::Pairs;

/// SHA-256 over the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From its 64 hex digits.
    pub fn parse(text: &str) -> Option<Key> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
        }
        Some(Key(bytes))
    }

    #[cfg(test)]
    pub fn of_bytes(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.hex()).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Makes keys: consumer, route, method, path, query and the headers answers vary by.
#[derive(Debug)]
pub(super) struct Maker {
    ignore_case: bool,
    /// All parameters when empty.
    parameters: Vec<String>,
    headers: Vec<HeaderName>,
}

/// Parts cannot run into each other: each is preceded by its length.
struct Parts(Context);

impl Parts {
    fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }
}

impl Maker {
    pub fn new(config: &ProxyCacheConfig) -> Result<Maker, String> {
        let mut headers = config
            .vary_headers
            .iter()
            .map(|name| HeaderName::from_bytes(name.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "in 'vary_headers': invalid header name".to_owned())?;
        headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        let mut parameters = config.vary_query_params.clone();
        parameters.sort();
        Ok(Maker { ignore_case: config.ignore_uri_case, parameters, headers })
    }

    pub fn of(&self, ctx: &RequestContext) -> Key {
        let mut parts = Parts(Context::new(&SHA256));
        match &ctx.consumer {
            Some(consumer) => parts.add(consumer.id.as_bytes()),
            None => parts.add(b""),
        }
        match ctx.route() {
            Some(entry) => parts.add(entry.route.id.as_bytes()),
            None => parts.add(b""),
        }
        parts.add(ctx.head.method.as_str().as_bytes());
        let path = ctx.head.uri.path();
        if self.ignore_case {
            parts.add(path.to_lowercase().as_bytes())
        } else {
            parts.add(path.as_bytes())
        }
        if let Some(query) = ctx.head.uri.query() {
            let mut pairs = Pairs::parse(query).into_sorted();
            pairs.retain(|(name, _)| {
                self.parameters.is_empty() || self.parameters.binary_search(name).is_ok()
            });
            for (name, value) in &pairs {
                parts.add(name.as_bytes());
                match value {
                    Some(value) => parts.add(value.as_bytes()),
                    None => parts.add(b"\0"),
                }
            }
        }
        for name in &self.headers {
            parts.add(b"\0header");
            for value in ctx.head.headers.get_all(name) {
                parts.add(value.as_bytes());
            }
        }
        let digest = parts.0.finish();
        Key(digest.as_ref().try_into().unwrap_or_default())
    }
}
