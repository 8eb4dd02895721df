//! One writer per Consul while the history is a SQLite file: a second replica has another file, and two histories of one
//! configuration would undo each other's work.
//!
//! Two locks. On this machine an exclusive lock on a file beside the database: the same file is never opened twice. In
//! Consul a session lock that holds the file's identity: another file with a live holder makes this process end (exit
//! 64). The same identity means that we are the restarted owner, so a crash does not lock us out until the old session
//! expires.
//!
//! The guard is against wrong set-ups. While Consul is away a running writer goes on writing, and asks again afterwards.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plinth_core::consul::wire::SessionRequest;
use plinth_core::consul::{Client, PutOptions, Read};
use plinth_events::sql::make_private_folder;
use plinth_kit::settings::Faults;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// The lock in Consul; its value is the holder's identity.
pub const LOCK_KEY: &str = "plinth/locks/config-service-sqlite";
/// Consul ends the session of a dead holder after at most twice this.
const SESSION_TTL: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// Says whether this process may write. Once granted it stays: see the module's text.
#[derive(Debug)]
pub struct Permission(watch::Sender<bool>);

impl Default for Permission {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Permission {
    pub fn grant(&self) {
        self.0.send_replace(true);
    }

    /// # Errors
    /// [`Error::WriterUnconfirmed`]
    pub fn check(&self) -> Result<(), Error> {
        if *self.0.borrow() { Ok(()) } else { Err(Error::WriterUnconfirmed) }
    }

    pub async fn granted(&self) {
        // The sender lives in self, so this ends with a value.
        let _ = self.0.subscribe().wait_for(|granted| *granted).await;
    }
}

/// The lock on this machine, and the database file's identity.
pub struct Identity {
    id: String,
    _lock: File,
}

impl Identity {
    /// Takes the file lock beside the database; reads the identity or makes one.
    ///
    /// # Errors
    /// [`Error::SecondWriter`] when another process has the folder, [`Error::Io`].
    pub fn claim(folder: &Path) -> Result<Self, Error> {
        let failed = |what| move |error| Error::Io(what, error);
        make_private_folder(folder).map_err(failed("the data folder cannot be made"))?;
        let path = folder.join("config-service.identity");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("the identity file cannot be opened"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(second_writer(format!(
                    "another process uses the data folder {}",
                    folder.display()
                )));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(Error::Io("the identity file cannot be locked", error));
            }
        }
        let mut id = String::new();
        file.read_to_string(&mut id).map_err(failed("the identity file cannot be read"))?;
        if id.is_empty() {
            id = uuid::Uuid::new_v4().to_string();
            file.write_all(id.as_bytes()).map_err(failed("the identity file cannot be written"))?;
            file.sync_all().map_err(failed("the identity file cannot be written"))?;
        }
        Ok(Self { id, _lock: file })
    }
}

pub struct SoleWriter {
    client: Client,
    identity: Identity,
    permission: Arc<Permission>,
    session: Option<String>,
}

/// A fault of the settings, so that the process ends with exit code 64.
fn second_writer(message: String) -> Error {
    Error::SecondWriter(Faults::one("config-service", "database.url", message))
}

impl SoleWriter {
    pub fn new(client: Client, identity: Identity, permission: Arc<Permission>) -> Self {
        Self { client, identity, permission, session: None }
    }

    /// One try before the service starts, so that a wrong set-up ends it at once. Consul may be away.
    ///
    /// # Errors
    /// [`Error::SecondWriter`]
    pub async fn first(&mut self, limit: Duration) -> Result<(), Error> {
        match tokio::time::timeout(limit, self.acquire()).await {
            Ok(Ok(session)) => {
                if session.is_some() {
                    self.permission.grant();
                }
                self.session = session;
                Ok(())
            }
            Ok(Err(error @ Error::SecondWriter(_))) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Holds the lock until `stop`, then gives it back.
    ///
    /// # Errors
    /// [`Error::SecondWriter`] as soon as another identity is found to hold it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let mut session = self.session.clone();
        loop {
            let step = async {
                match &session {
                    Some(id) => Ok(self.client.session().renew(id).await?.map(|_| id.clone())),
                    None => self.acquire().await,
                }
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                outcome = step => outcome,
            };
            let pause = match outcome {
                Ok(Some(held)) => {
                    self.permission.grant();
                    session = Some(held);
                    RENEW
                }
                // The session ended while Consul could not be reached: take the lock anew.
                Ok(None) => {
                    session = None;
                    continue;
                }
                Err(error @ Error::SecondWriter(_)) => return Err(error),
                Err(error) => {
                    tracing::debug!(
                        reason = plinth_core::error::chain(&error),
                        "the writer's lock waits for Consul"
                    );
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(id) = session
            && let Err(error) = self.client.session().destroy(&id).await
        {
            tracing::debug!(
                reason = plinth_core::error::chain(&error),
                "the writer's session is left to expire"
            );
        }
        Ok(())
    }

    async fn acquire(&self) -> Result<Option<String>, Error> {
        let sessions = self.client.session();
        let request = SessionRequest {
            name: Some("plinth config-service writer".into()),
            ttl: Some(SESSION_TTL),
            lock_delay: Some(Duration::ZERO),
            node_checks: Some(Vec::new()),
            ..SessionRequest::default()
        };
        let session = sessions.create(&request).await?;
        let take = PutOptions { acquire: Some(session.clone()), ..PutOptions::default() };
        let mine = Bytes::copy_from_slice(self.identity.id.as_bytes());
        if self.client.kv().put(LOCK_KEY, mine.clone(), take).await? {
            return Ok(Some(session));
        }
        sessions.destroy(&session).await?;
        let held = self.client.kv().get(LOCK_KEY, &Read::consistent()).await?.value;
        match held {
            Some(pair) if pair.value == mine => {
                // Our own session from before a crash: the file lock proves that its process is gone.
                if let Some(old) = pair.session {
                    sessions.destroy(&old).await?;
                }
                Ok(None)
            }
            Some(pair) if pair.session.is_some() => {
                let holder = String::from_utf8_lossy(&pair.value);
                Err(second_writer(format!(
                    "another instance (database {holder}) writes this Consul's configuration; several replicas need \
                     PostgreSQL"
                )))
            }
            _ => Ok(None),
        }
    }
}
