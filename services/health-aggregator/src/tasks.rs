//! What runs beside the requests: watches of the catalog, looks at the other replicas, and the loop that acts.

pub mod catalog;
pub mod members;
pub mod patrol;
pub mod peer;
