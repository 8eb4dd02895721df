//! What requests carry besides bodies, read and checked: all faults of a request at once.

use std::time::Duration;

use http::{HeaderMap, header};
use plinth_kit::settings::parse_duration;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::Error;
use crate::configuration::fault;
use crate::domain::{ItemId, Key, Precondition, Scope};

/// Longest `wait` of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(600);

#[derive(Debug, Deserialize)]
pub struct ScopePath {
    pub namespace: String,
    pub environment: String,
}

#[derive(Debug, Deserialize)]
pub struct ItemPath {
    pub namespace: String,
    pub environment: String,
    pub key: String,
}

impl ScopePath {
    pub fn scope(&self) -> Result<Scope, Error> {
        Scope::parse(&self.namespace, &self.environment).map_err(|faults| {
            Error::Invalid(faults.into_iter().map(|(field, why)| fault(field, why.to_string())).collect())
        })
    }
}

impl ItemPath {
    pub fn id(&self) -> Result<ItemId, Error> {
        let (scope, key) = (Scope::parse(&self.namespace, &self.environment), Key::parse(&self.key));
        match (scope, key) {
            (Ok(scope), Ok(key)) => Ok(ItemId { scope, key }),
            (scope, key) => {
                let scope = scope.err().unwrap_or_default();
                let key = key.err().map(|why| ("key", why));
                let faults = scope.into_iter().chain(key).map(|(field, why)| fault(field, why.to_string()));
                Err(Error::Invalid(faults.collect()))
            }
        }
    }
}

/// Which state a read wants.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StateQuery {
    /// A state at least this new; with `wait`: block until it changed after this.
    pub index: Option<u64>,
    /// Longest time to block, such as `30s` or `500ms`; at most 10 minutes. Needs `index`.
    pub wait: Option<String>,
}

/// Which items, and which state.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only keys that begin with this text.
    #[serde(default)]
    pub prefix: String,
    /// A state at least this new; with `wait`: block until it changed after this.
    pub index: Option<u64>,
    /// Longest time to block, such as `30s` or `500ms`; at most 10 minutes. Needs `index`.
    pub wait: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// At most this many revisions, 1 to 1000. Default 100.
    pub limit: Option<u32>,
    /// Only revisions below this one: the last one of the page before.
    pub before: Option<u64>,
}

/// # Errors
/// [`Error::Invalid`] naming `wait` or `index`.
pub fn wait(wait: Option<&str>, index: Option<u64>) -> Result<Option<Duration>, Error> {
    let Some(text) = wait else { return Ok(None) };
    let invalid = |field, message: String| Err(Error::Invalid(vec![fault(field, message)]));
    match parse_duration(text) {
        Ok(wait) if wait > MAX_WAIT => invalid("wait", "must be at most 10m".to_owned()),
        Ok(_) if index.is_none() => invalid("index", "is needed with wait".to_owned()),
        Ok(wait) => Ok(Some(wait)),
        Err(why) => invalid("wait", why),
    }
}

impl HistoryQuery {
    pub fn limit(&self) -> Result<u32, Error> {
        match self.limit.unwrap_or(100) {
            limit @ 1..=1000 => Ok(limit),
            _ => Err(Error::Invalid(vec![fault("limit", "must be 1 to 1000")])),
        }
    }
}

/// # Errors
/// [`Error::Invalid`] naming the header.
pub fn precondition(headers: &HeaderMap) -> Result<Precondition, Error> {
    let text = |name: header::HeaderName| {
        let lines: Vec<&str> = headers.get_all(&name).iter().map(|v| v.to_str().unwrap_or("?")).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    let (if_match, if_none_match) = (text(header::IF_MATCH), text(header::IF_NONE_MATCH));
    Precondition::parse(if_match.as_deref(), if_none_match.as_deref())
        .map_err(|why| Error::Invalid(vec![fault(why.0, why.1)]))
}
