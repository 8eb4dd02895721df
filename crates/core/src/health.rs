//! Health from both sides: a service's own components for its `/health` ([`Components`]), and probes of others
//! ([`Prober`], [`Tracker`], [`ProbeLoop`]) with Consul's result rules.

mod components;
mod probe;
mod schedule;
mod status;
mod tracker;

pub use components::{CheckResult, CheckStatus, Components, Overall, Report};
pub use probe::{At, OUTPUT_LIMIT, ProbeOutcome, ProbeTarget, Prober, probe};
pub use schedule::ProbeLoop;
pub use status::{Status, UnknownStatus};
pub use tracker::{Thresholds, Tracker, Transition};
