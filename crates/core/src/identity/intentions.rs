//! Whether Consul's intentions let a caller in, asked from Consul and kept for a short while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::verify::Caller;
use crate::Error;
use crate::consul::Client;
use crate::consul::wire::AuthorizeRequest;

/// Most callers remembered; beyond that those go that would be asked for again anyway.
const MOST: usize = 4096;
/// Longest wait for Consul's word on one caller; then the last known one counts.
const LIMIT: Duration = Duration::from_secs(3);

/// Consul's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// With Consul's reason.
    Denied(Arc<str>),
}

/// Intentions towards one service. Clones share what is known.
#[derive(Debug, Clone)]
pub struct Intentions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    target: String,
    fresh_for: Duration,
    known: Mutex<HashMap<String, Arc<Entry>>>,
}

/// What is known of one caller. The lock is held while Consul is asked, so that many connections of one caller ask once.
#[derive(Debug, Default)]
struct Entry(tokio::sync::Mutex<Option<(Instant, Decision)>>);

impl Intentions {
    /// Intentions towards `target`; an answer counts for `fresh_for`, and longer while Consul is away.
    pub fn new(client: Client, target: impl Into<String>, fresh_for: Duration) -> Self {
        let known = Mutex::new(HashMap::new());
        Self { shared: Arc::new(Shared { client, target: target.into(), fresh_for, known }) }
    }

    /// How long an answer counts.
    pub fn fresh_for(&self) -> Duration {
        self.shared.fresh_for
    }

    /// Whether a caller may call.
    ///
    /// # Errors
    /// Consul does not say, and has never said before.
    pub async fn decide(&self, caller: &Caller) -> Result<Decision, Error> {
        let uri = caller.id.as_ref().map(ToString::to_string).unwrap_or_default();
        let entry = self.entry(&uri);
        let mut known = entry.0.lock().await;
        if let Some((at, decision)) = &*known
            && at.elapsed() < self.shared.fresh_for
        {
            return Ok(decision.clone());
        }
        match self.ask(uri, caller.serial.clone()).await {
            Ok(decision) => {
                *known = Some((Instant::now(), decision.clone()));
                Ok(decision)
            }
            Err(error) => match &*known {
                // Consul away is no reason to cut off who was let in, nor to let in who was not.
                Some((_, decision)) => {
                    tracing::debug!(
                        error = crate::error::chain(&error),
                        "the last known intention counts: Consul does not answer"
                    );
                    Ok(decision.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn ask(&self, uri: String, serial: String) -> Result<Decision, Error> {
        let Shared { client, target, .. } = &*self.shared;
        let request =
            AuthorizeRequest { target: target.clone(), client_cert_uri: uri, client_cert_serial: serial };
        let connect = client.connect();
        let asking = connect.authorize(&request);
        let answer = tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                method: "POST".to_owned(),
                path: "/v1/agent/connect/authorize".to_owned(),
                after: LIMIT,
            })
        })?;
        Ok(if answer.authorized { Decision::Allowed } else { Decision::Denied(answer.reason.into()) })
    }

    fn entry(&self, uri: &str) -> Arc<Entry> {
        let mut known = self.shared.known.lock();
        if let Some(entry) = known.get(uri) {
            return Arc::clone(entry);
        }
        if known.len() >= MOST {
            let fresh_for = self.shared.fresh_for;
            known.retain(|_, entry| {
                entry
                    .0
                    .try_lock()
                    .map_or(true, |known| known.as_ref().is_some_and(|(at, _)| at.elapsed() < fresh_for))
            });
        }
        let entry = Arc::<Entry>::default();
        // Still full of fresh ones: this one is asked for each time.
        if known.len() < MOST {
            known.insert(uri.to_owned(), Arc::clone(&entry));
        }
        entry
    }
}
