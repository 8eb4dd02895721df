//! Registration of instances, independent of any agent, so that every replica of every service sees and may change them all.
//!
//! Each instance is one catalog node `plinth-<service_id>` (node meta `plinth=true`) with one service and one check, and one
//! JSON document in KV. [`Registrar`] writes both in one transaction that compares the document's index: two owners racing for
//! an id give exactly one winner. TTL instances hold a lease, a session on their node. Who probes takes the check from the
//! document; Consul's own check definition cannot hold all of it.

mod layout;
mod lease;
mod model;
mod own;
mod plan;
mod registrar;
mod validate;

pub use crate::health::Status;
pub use layout::{
    DOCUMENT_MARK, INSTANCE_PREFIX, LAST_DEREGISTRATION, LEASE_PREFIX, NODE_MARK, check_id, instance_key,
    lease_holder, lease_key, node_name,
};
pub(crate) use layout::{document_from, fingerprint};
pub use model::{CheckSpec, Document, FieldFault, Owner, Registration, Timing, host_port};
pub use own::{SelfRegistration, SelfState};
pub use registrar::{Heartbeat, Registered, Registrar};
