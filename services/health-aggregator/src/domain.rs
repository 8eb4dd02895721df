//! What to probe, what to write, what to remove: plain types and functions, no I/O, time comes in.

pub mod brake;
pub mod case;
pub mod ownership;
pub mod rollup;
pub mod target;
pub mod warden;
