//! What can go wrong in the registry, and how callers are told.

use axum::http::HeaderValue;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use plinth_core::registration::FieldFault;
use plinth_kit::problem::Problem;

/// One variant per condition. `Display` says what happened to a reader of the log; callers get [`Error::into_problem`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks rules, each named with its field.
    #[error("the request is not acceptable")]
    Invalid(Vec<FieldFault>),
    /// Another owner holds the id.
    #[error("service id {service_id:?} is held by another owner")]
    HeldByAnother { service_id: String },
    /// The caller may not change an instance of another owner.
    #[error("service id {service_id:?} belongs to another owner")]
    NotTheOwner { service_id: String },
    /// No registration with this id.
    #[error("no instance with the id {service_id:?} is registered")]
    UnknownInstance { service_id: String },
    /// No instance of this service is registered.
    #[error("no instance of {service_name:?} is registered")]
    UnknownService { service_name: String },
    /// The lease of a TTL registration is over.
    #[error("the lease of {service_id:?} is lost")]
    LeaseLost { service_id: String },
    /// The registration has no TTL, so there is nothing to renew.
    #[error("{service_id:?} was registered without a ttl check")]
    NoLease { service_id: String },
    /// Nothing is known yet: the first snapshot has not come within its bound.
    #[error("nothing is known about {what} yet")]
    NotReady { what: String },
    /// `index=` asks for a state that this replica has not seen within its bound.
    #[error("this replica has not reached index {wanted} in time")]
    NotReached { wanted: u64 },
    /// As many requests wait for changes as may.
    #[error("all {limit} places for waiting requests are taken")]
    TooManyWaiting { limit: usize },
    /// Consul cannot take the write now.
    #[error("Consul does not answer")]
    Unavailable(#[source] plinth_core::Error),
    /// Consul refused what it should take, or answered with something else than it should.
    #[error("Consul did not do what it was asked")]
    Consul(#[source] plinth_core::Error),
    /// An answer could not be encoded.
    #[error("an answer cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// The service cannot start.
    #[error("registry-service cannot start")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The service cannot start because of `cause`.
    pub fn start(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Start(Box::new(cause))
    }

    /// Sorts an error of a write into what the caller can do about it.
    pub fn from_write(error: plinth_core::Error) -> Self {
        use plinth_core::Error as Core;
        match error {
            Core::Invalid { faults, .. } => Self::Invalid(faults),
            Core::OwnedByAnother { service_id, .. } => Self::HeldByAnother { service_id },
            Core::Superseded { service_id } => Self::NotTheOwner { service_id },
            Core::NotRegistered { service_id } => Self::UnknownInstance { service_id },
            Core::LeaseLost { service_id } => Self::LeaseLost { service_id },
            Core::NoLease { service_id } => Self::NoLease { service_id },
            Core::Contended { .. } => Self::Unavailable(error),
            other if other.is_unavailable() => Self::Unavailable(other),
            other => Self::Consul(other),
        }
    }

    /// What the caller is told. Names of hosts and texts of other systems stay in the log.
    pub fn into_problem(self) -> Problem {
        match &self {
            Self::Invalid(faults) => Problem::invalid(
                faults
                    .iter()
                    .map(|fault| plinth_kit::problem::FieldFault {
                        field: fault.field.to_string(),
                        message: fault.message.to_string(),
                    })
                    .collect(),
            ),
            Self::HeldByAnother { service_id } => Problem::conflict(format!(
                "the service id {service_id:?} is held by another owner; choose another id or have that owner deregister it"
            ))
            .kind("urn:plinth:problem:owned-by-another", "Owned By Another")
            .field("service_id", "is held by another owner"),
            Self::NotTheOwner { service_id } => Problem::forbidden(format!(
                "the service id {service_id:?} belongs to another owner; changing it takes the scope services:admin"
            )),
            Self::UnknownInstance { .. } | Self::UnknownService { .. } => Problem::not_found(self.to_string()),
            Self::LeaseLost { .. } => Problem::not_found("the lease is over; register again")
                .kind("urn:plinth:problem:lease-lost", "Lease Lost"),
            Self::NoLease { .. } => {
                Problem::conflict("the instance was registered without a ttl check, so it needs no heartbeat")
                    .kind("urn:plinth:problem:no-lease", "No Lease")
            }
            Self::NotReady { .. } | Self::NotReached { .. } | Self::TooManyWaiting { .. } => {
                Problem::unavailable(self.to_string()).header(RETRY_AFTER, HeaderValue::from_static("1"))
            }
            Self::Unavailable(_) => Problem::unavailable("Consul does not take writes now; reads go on")
                .header(RETRY_AFTER, HeaderValue::from_static("1"))
                .caused_by(&self),
            Self::Consul(_) | Self::Encode(_) | Self::Start(_) => Problem::internal(&self),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.into_problem().into_response()
    }
}
