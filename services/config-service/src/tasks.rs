//! What runs beside the requests. Each task is idempotent, works on a timer plus nudges, and ends with its token.

pub mod follow;
pub mod publish;
pub mod reconcile;
pub mod sole_writer;
