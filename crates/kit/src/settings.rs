//! Typed settings from a TOML file, the environment and flags.
//!
//! One dotted key has three spellings: `database.url` is `[database] url` in the file given by `--settings`,
//! `PLINTH_<SERVICE>__DATABASE__URL` in the environment and `--database-url` on the command line. A flag wins
//! over the environment, the environment over the file, the file over the default.
//!
//! Reading never stops at the first fault: [`Reader`] hands out placeholders and [`Reader::finish`] reports
//! every fault at once, by setting, with what was wrong and what would be right.

mod faults;
mod help;
mod reader;
mod sources;
mod suggest;
#[cfg(test)]
mod tests;
mod units;

pub use faults::{Fault, Faults};
pub use plinth_core::Secret;
pub use reader::Reader;
pub use sources::{Origin, Sources, Wanted};
pub use units::{format_duration, parse_bytes, parse_duration};
