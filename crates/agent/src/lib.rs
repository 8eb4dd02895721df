//! plinth-agent: the embedded single-node agent that speaks Consul's HTTP API (reference: 1.8.7).
//!
//! It owns the catalog, the KV store, sessions and locks of a machine that has no Consul. Layers: [`state`] is the
//! pure store; [`storage`] is its durable log; `engine` is the one writer, the readers' versions and the waiting
//! queries; `http` is Consul's surface, served by the threads of `workers`; `timers` and `runners` end sessions and run checks.
//!
//! Invariants: a write is answered after it is on disk; nobody sees a state that a crash could take back; an
//! index never goes backwards. It fails read-only when the disk refuses writes, and heals when it takes them; when a part
//! of it panics it is no agent any more, see [`Agent::failed`].

mod agent;
mod authority;
mod duration;
mod engine;
mod error;
mod feed;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod heads;
// the error side of a handler is the answer itself, made and consumed at once: boxing it would cost an allocation
#[allow(clippy::result_large_err)]
mod http;
mod regexp;
mod runners;
mod schema;
pub mod state;
pub mod storage;
mod timers;
mod workers;

pub use agent::{Agent, Data, Settings};
pub use error::{Error, WriteError};
pub use plinth_core::Secret;
