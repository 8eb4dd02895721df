//! The one error type of this crate.

use std::time::Duration;

use crate::registration::FieldFault;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong. `Display` says what was tried; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used; `name` is the setting's or environment variable's name.
    #[error("setting {name}: {message}")]
    Setting { name: &'static str, message: String },
    /// A certificate, key or trust store could not be loaded.
    #[error("TLS material {what} cannot be used")]
    Tls { what: String, source: Source },
    /// No request could be sent or no answer was read: refused, reset, TLS failure.
    #[error("{method} {path}: no answer from the server")]
    Transport { method: String, path: String, source: Source },
    /// The deadline of a request passed; the connection is given up, a half-open one included.
    #[error("{method} {path}: no answer within {after:?}")]
    Timeout { method: String, path: String, after: Duration },
    /// The server answered with an error status; `body` is its text, cut at 4 KiB.
    #[error("{method} {path}: status {status}: {body}")]
    Status { method: String, path: String, status: u16, body: String },
    /// The answer was not the JSON that was expected.
    #[error("{method} {path}: the answer cannot be understood")]
    Decode { method: String, path: String, source: serde_json::Error },
    /// The answer is larger than the limit in the settings.
    #[error("{method} {path}: the answer is larger than {limit} bytes")]
    TooLarge { method: String, path: String, limit: usize },
    /// A request could not be put together (a header or path with impossible characters, a body that does not serialise).
    #[error("the request cannot be built: {0}")]
    Request(String),
    /// All places for blocking queries of this process stayed taken for a whole request timeout.
    #[error("all {limit} blocking queries of this process are in use")]
    Saturated { limit: usize },
    /// A transaction was rolled back; every failing operation is listed.
    #[error("the transaction was rolled back: {}", list_failures(.errors))]
    TxnFailed { errors: Vec<TxnFailure> },
    /// A registration cannot be accepted as it stands.
    #[error("the registration of {service_id:?} is not valid")]
    Invalid { service_id: String, faults: Vec<FieldFault> },
    /// Somebody else holds this service id.
    #[error("service id {service_id:?} is held by {owner:?}")]
    OwnedByAnother { service_id: String, owner: String },
    /// The same owner registered this id again from a newer process; the older process has no say any more.
    #[error("service id {service_id:?} was registered again by a newer process of the same owner")]
    Superseded { service_id: String },
    /// No such registration.
    #[error("service id {service_id:?} is not registered")]
    NotRegistered { service_id: String },
    /// The TTL lease is gone (expired, or its node was removed): register again.
    #[error("the lease of service id {service_id:?} is lost; register again")]
    LeaseLost { service_id: String },
    /// The registration has no TTL, so there is nothing to keep alive.
    #[error("service id {service_id:?} was registered without a TTL")]
    NoLease { service_id: String },
    /// Concurrent writers kept winning; the write was given up after `attempts`.
    #[error("service id {service_id:?} is written by others all the time; gave up after {attempts} attempts")]
    Contended { service_id: String, attempts: u32 },
    /// A document in the store is not one that we wrote.
    #[error("the document at {key:?} cannot be understood")]
    Document { key: String, source: serde_json::Error },
    /// A last-good file could not be read or written.
    #[error("file {path:?}")]
    File { path: std::path::PathBuf, source: std::io::Error },
}

impl Error {
    /// The status the server answered with, if it answered at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::TxnFailed { .. } => Some(409),
            _ => None,
        }
    }

    /// True when the server cannot be reached or cannot answer now (no answer, timeout, 5xx, 429): trying later makes sense.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Timeout { .. } | Self::Saturated { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// One failing operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnFailure {
    /// Place of the operation in the list that was sent, from 0.
    pub op_index: usize,
    /// The server's words.
    pub what: String,
}

fn list_failures(errors: &[TxnFailure]) -> String {
    let shown: Vec<String> =
        errors.iter().take(3).map(|e| format!("op {}: {}", e.op_index, e.what)).collect();
    let more = errors.len().saturating_sub(shown.len());
    let tail = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    format!("{}{tail}", shown.join("; "))
}

/// Error with all its causes on one line, for logs and states.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
