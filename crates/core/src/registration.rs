//! Registration of instances, independent of any agent: one catalog node per instance.

mod model;

pub use model::{CheckSpec, Document, FieldFault, Owner, Registration, Timing, host_port};

pub use crate::health::Status;
