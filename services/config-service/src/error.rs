//! The one error type of the service and its conversion into an answer.

use http::HeaderValue;
use plinth_kit::problem::{FieldFault, Problem};

/// What can go wrong, named by condition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such item")]
    NotFound,
    #[error("the precondition does not hold")]
    Precondition { current: Option<u64> },
    #[error("the request has wrong fields")]
    Invalid(Vec<FieldFault>),
    /// A read asked for a state newer than the snapshot became in time.
    #[error("the snapshot did not reach index {wanted} in time, it is at {current}")]
    SnapshotBehind { wanted: u64, current: u64 },
    #[error("no snapshot of the configuration yet")]
    NotReady,
    #[error("all places for watchers are taken")]
    TooManyWatchers,
    /// The database's lock on Consul is not confirmed yet, so this process may not write.
    #[error("not yet confirmed as the only writer of its database")]
    WriterUnconfirmed,
    #[error("a SQLite history has one writer")]
    SecondWriter(#[source] plinth_kit::settings::Faults),
    #[error("the database is away")]
    DatabaseAway(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the database failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that no version of this service wrote.
    #[error("the database holds a row that cannot be read: {0}")]
    CorruptRow(String),
    #[error("KV key {0} is written by others all the time")]
    Contended(String),
    #[error("events")]
    Events(#[source] plinth_events::Error),
    #[error("Consul")]
    Consul(#[from] plinth_core::Error),
    #[error("{0}")]
    Io(&'static str, #[source] std::io::Error),
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("the service cannot be started")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        // Undefined table or schema: PostgreSQL came up after us and the migrations are about to run.
        let unmigrated = matches!(&error, sqlx::Error::Database(cause)
            if matches!(cause.code().as_deref(), Some("42P01" | "3F000")));
        if unmigrated || plinth_events::sql::is_unavailable(&error) {
            Self::DatabaseAway(Box::new(error))
        } else {
            Self::Database(Box::new(error))
        }
    }
}

impl From<plinth_events::Error> for Error {
    fn from(error: plinth_events::Error) -> Self {
        match error {
            plinth_events::Error::Database(error) => error.into(),
            other => Self::Events(other),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let retry = HeaderValue::from_static("1");
        match error {
            Error::NotFound => Problem::not_found("There is no item of this name."),
            Error::Precondition { current } => {
                let detail = match current {
                    Some(revision) => format!("The item's revision is {revision}."),
                    None => "The item does not exist.".to_owned(),
                };
                let problem = Problem::new(http::StatusCode::PRECONDITION_FAILED)
                    .kind("urn:plinth:problem:revision-mismatch", "The item is not at the expected revision")
                    .detail(detail);
                match current.and_then(|revision| HeaderValue::from_str(&format!("\"{revision}\"")).ok()) {
                    Some(tag) => problem.header(http::header::ETAG, tag),
                    None => problem,
                }
            }
            Error::Invalid(faults) => Problem::invalid(faults),
            Error::SnapshotBehind { wanted, current } => Problem::unavailable(format!(
                "This replica has not seen index {wanted} yet; it is at {current}. Try again."
            ))
            .header(http::header::RETRY_AFTER, retry),
            Error::NotReady => {
                Problem::unavailable("No state of the configuration was read from Consul yet. Try again.")
                    .header(http::header::RETRY_AFTER, retry)
            }
            Error::TooManyWatchers => Problem::unavailable(
                "All places for event streams and long polls are taken. Try again later.",
            )
            .header(http::header::RETRY_AFTER, retry),
            Error::WriterUnconfirmed => Problem::unavailable(
                "Writes wait until Consul confirmed that no other instance writes. Try again.",
            )
            .header(http::header::RETRY_AFTER, retry),
            Error::DatabaseAway(_) => Problem::unavailable(
                "The history database cannot be reached; nothing was changed. Try again.",
            )
            .header(http::header::RETRY_AFTER, retry)
            .caused_by(&error),
            Error::Consul(ref cause) if cause.is_unavailable() => {
                Problem::unavailable("Consul cannot be reached. Try again.")
                    .header(http::header::RETRY_AFTER, retry)
                    .caused_by(&error)
            }
            other => Problem::internal(&other),
        }
    }
}

impl axum::response::IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        Problem::from(self).into_response()
    }
}
