//! What can go wrong, and what a caller is told about it.

use http::{HeaderValue, header};
use plinth_kit::problem::Problem;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the service cannot be started")]
    Start(#[source] plinth_kit::BoxError),
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The first read of the catalog is not through yet.
    #[error("nothing was read from Consul yet")]
    NotReady,
    #[error("no instance of service {0:?} is registered")]
    UnknownService(String),
    #[error("more than {most} instances in one question")]
    TooMany { most: usize },
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::NotReady => Problem::unavailable("Nothing was read from Consul yet. Try again.")
                .header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Error::UnknownService(name) => {
                Problem::not_found(format!("No instance of the service {name:?} is registered."))
            }
            Error::TooMany { most } => {
                Problem::bad_request(format!("At most {most} instances can be looked at in one request."))
            }
            Error::Start(_) | Error::Metrics(_) => Problem::internal(&error),
        }
    }
}
