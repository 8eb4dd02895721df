//! Background work: each task is idempotent, publishes one immutable value, and ends when the service stops.

pub mod directory;
pub mod probes;
