//! What a service says about itself: `/health`, `/health/live`, `/health/ready` and `/metrics`.

mod readiness;
mod routes;
mod system;

pub use readiness::{Condition, Readiness};
pub use routes::{HealthState, probes, routes};
pub use system::SystemUsage;
