//! The rules of the registry as plain types and functions: no HTTP framework, no I/O, no clock of its own.

pub mod check;
pub mod draft;
pub mod probed;
pub mod selection;
pub mod view;
