//! Where tokens and codes are: in this process, or in Redis for several gateways and restarts.
//!
//! Names are SHA-256 digests: whoever reads memory dumps or Redis learns no token. Codes and refresh tokens are taken
//! out in one step, so that of two who present the same one only one succeeds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{FromRedisValue, Pipeline, pipe};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plugins::redis;

/// Entries kept in this process. Beyond it new ones are refused.
const MOST: usize = 200_000;
/// Entries put in between two sweeps for expired ones.
const SWEEP_EVERY: usize = 4096;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Access,
    Refresh,
    Code,
}

/// An access token, with what came with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Token {
    /// `None`: good for every service.
    pub service: Option<Uuid>,
    /// The client's.
    pub credential: Uuid,
    pub user: Option<String>,
    pub scope: Option<String>,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds; 0 never.
    pub expires_in: u64,
    /// The access token's name, in the entry of its refresh token.
    pub access: Option<[u8; 32]>,
}

impl Token {
    pub fn expired(&self, now: u64) -> bool {
        self.expires_in > 0 && now.saturating_sub(self.issued) > self.expires_in
    }
}

/// An authorization code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Code {
    pub service: Option<Uuid>,
    pub credential: Uuid,
    /// The plugin that gave it out.
    pub plugin: Uuid,
    pub user: String,
    pub scope: Option<String>,
    /// S256 of the verifier.
    pub challenge: Option<String>,
    /// Where the client was sent, if it said so itself.
    pub redirect_uri: Option<String>,
}

/// Why the store is of no use.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("Redis does not answer")]
    Redis,
    #[error("{MOST} tokens are kept already")]
    Full,
    #[error("the system gives no random numbers")]
    Randomness,
    #[error("an entry cannot be read")]
    Malformed,
}

type Name = (Kind, [u8; 32]);

#[derive(Debug)]
struct Entry {
    text: Arc<str>,
    expires: Option<Instant>,
}

/// Tokens of this process; they outlive configurations, not the process.
#[derive(Debug, Default)]
pub(in crate::plugins) struct Memory {
    entries: Mutex<(HashMap<Name, Entry, RandomState>, usize)>,
}

#[derive(Debug)]
pub(super) enum Store {
    Memory(Arc<Memory>),
    Redis(Arc<redis::Client>),
}

impl Store {
    /// Keeps `value` for `ttl` seconds; for ever without.
    pub async fn put(
        &self,
        kind: Kind,
        name: &[u8; 32],
        value: &impl Serialize,
        ttl: Option<u64>,
    ) -> Result<(), Unavailable> {
        let text = serde_json::to_string(value).map_err(|_| Unavailable::Malformed)?;
        match self {
            Store::Memory(memory) => memory.put((kind, *name), text, ttl),
            Store::Redis(client) => {
                let mut pipeline = pipe();
                pipeline.cmd("SET").arg(key(kind, name)).arg(text);
                if let Some(ttl) = ttl {
                    pipeline.arg("EX").arg(ttl.max(1));
                }
                ask::<(String,)>(client, pipeline).await.map(drop)
            }
        }
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        kind: Kind,
        name: &[u8; 32],
    ) -> Result<Option<T>, Unavailable> {
        match self {
            Store::Memory(memory) => read(memory.get((kind, *name)).as_deref()),
            Store::Redis(client) => ask_for(client, "GET", kind, name).await,
        }
    }

    /// Gets and removes in one step.
    pub async fn take<T: DeserializeOwned>(
        &self,
        kind: Kind,
        name: &[u8; 32],
    ) -> Result<Option<T>, Unavailable> {
        match self {
            Store::Memory(memory) => read(memory.take((kind, *name)).as_deref()),
            Store::Redis(client) => ask_for(client, "GETDEL", kind, name).await,
        }
    }
}

async fn ask<T: FromRedisValue + Send + 'static>(
    client: &Arc<redis::Client>,
    pipeline: Pipeline,
) -> Result<T, Unavailable> {
    let question = client.ask(pipeline).map_err(|_| Unavailable::Redis)?;
    question.answer().await.map_err(|_| Unavailable::Redis)
}

async fn ask_for<T: DeserializeOwned>(
    client: &Arc<redis::Client>,
    verb: &str,
    kind: Kind,
    name: &[u8; 32],
) -> Result<Option<T>, Unavailable> {
    let mut pipeline = pipe();
    pipeline.cmd(verb).arg(key(kind, name));
    let (text,) = ask::<(Option<String>,)>(client, pipeline).await?;
    read(text.as_deref())
}

fn read<T: DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, Unavailable> {
    text.map(serde_json::from_str).transpose().map_err(|_| Unavailable::Malformed)
}

fn key(kind: Kind, name: &[u8; 32]) -> String {
    let kind = match kind {
        Kind::Access => "access",
        Kind::Refresh => "refresh",
        Kind::Code => "code",
    };
    format!("plinth:oauth2:{kind}:{}", crate::plugins::spans::hex(name))
}

impl Memory {
    fn put(&self, name: Name, text: String, ttl: Option<u64>) -> Result<(), Unavailable> {
        let now = Instant::now();
        let expires = ttl.and_then(|ttl| now.checked_add(Duration::from_secs(ttl)));
        let mut guard = self.entries.lock();
        let (entries, since_sweep) = &mut *guard;
        *since_sweep += 1;
        if *since_sweep >= SWEEP_EVERY || entries.len() >= MOST {
            entries.retain(|_, entry| entry.expires.is_none_or(|expires| expires > now));
            *since_sweep = 0;
        }
        if entries.len() >= MOST {
            return Err(Unavailable::Full);
        }
        entries.insert(name, Entry { text: text.into(), expires });
        Ok(())
    }

    fn get(&self, name: Name) -> Option<Arc<str>> {
        let guard = self.entries.lock();
        let entry = guard.0.get(&name)?;
        entry.expires.is_none_or(|expires| expires > Instant::now()).then(|| Arc::clone(&entry.text))
    }

    fn take(&self, name: Name) -> Option<Arc<str>> {
        let entry = self.entries.lock().0.remove(&name)?;
        entry.expires.is_none_or(|expires| expires > Instant::now()).then_some(entry.text)
    }
}
