//! What can go wrong with the agent as a whole.

use std::net::IpAddr;
use std::path::PathBuf;

/// Faults of starting the agent and of its storage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("refusing to listen on {0} without a token: set one, or bind to a loopback address")]
    OpenWithoutToken(IpAddr),
    #[error("cannot listen on {address}")]
    Bind { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the data folder {0} is in use by another agent")]
    FolderInUse(PathBuf),
    #[error("cannot {action} {path}")]
    Storage { action: &'static str, path: PathBuf, source: std::io::Error },
    /// Not a torn end: what follows was written after the damaged place had been acknowledged.
    #[error(
        "{path} is damaged at byte {offset} and acknowledged writes follow; restore the folder from a copy, or give them up: \
         cut the file there (truncate -s {offset}) and remove logs with higher numbers"
    )]
    Damaged { path: PathBuf, offset: u64 },
    #[error(
        "{path}: the record at byte {offset} is whole but not understood; was it written by a newer version?"
    )]
    Unreadable { path: PathBuf, offset: u64, source: serde_json::Error },
    #[error("{path} is missing, and acknowledged writes with it; restore the folder from a copy")]
    Missing { path: PathBuf },
    #[error("{path}: record {index} does not follow from the state before it")]
    Diverged { path: PathBuf, index: u64 },
    #[error("cannot register the agent's own node")]
    Bootstrap(#[source] crate::state::Fault),
    #[error("cannot store the agent's own node: {0}")]
    FirstWrite(#[source] WriteError),
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// Why a write was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Refused(#[from] crate::state::Fault),
    #[error("agent is read-only: the write could not be stored: {0}")]
    ReadOnly(String),
    #[error("the write could not be stored: {0}")]
    Unstorable(String),
    #[error("agent is stopping")]
    Stopping,
}
