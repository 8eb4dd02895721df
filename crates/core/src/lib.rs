//! plinth-core
pub mod balance;
