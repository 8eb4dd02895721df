//! The caches as the Admin API sees them: entries shown, purged one by one or all at once.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use plinth_kong::{CacheStrategy, Config, PluginConfig};
use redis::pipe;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::entry::Entry;
use super::key::Key;
use super::store::Store;
use super::{PREFIX, Place, seconds};
use crate::plugins::redis::{Client, Pools, Unavailable};

/// Keys Redis is asked for at once while everything is purged.
const AT_ONCE: usize = 500;

/// Redis does not answer, so that nothing can be said about its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis does not answer")]
pub struct Away;

impl From<Unavailable> for Away {
    fn from(_: Unavailable) -> Self {
        Away
    }
}

/// The caches of all proxy-cache plugins of a configuration.
#[derive(Debug)]
pub struct Caches(Vec<(Uuid, Place)>);

impl Caches {
    pub(in crate::plugins) fn of(config: &Config, memory: &Arc<Store>, pools: &Pools) -> Caches {
        let mut caches = Vec::new();
        for plugin in &config.plugins {
            let PluginConfig::ProxyCache(cache) = &plugin.config else { continue };
            let place = match cache.strategy {
                CacheStrategy::Memory => Place::Memory(Arc::clone(memory)),
                // one that cannot be used was refused with its configuration
                CacheStrategy::Redis => match pools.client(&cache.redis.0) {
                    Ok(client) => Place::Redis(client),
                    Err(_) => continue,
                },
            };
            caches.push((plugin.id, place));
        }
        Caches(caches)
    }

    /// Whether the configuration has this proxy-cache plugin.
    #[must_use]
    pub fn has(&self, plugin: Uuid) -> bool {
        self.0.iter().any(|(id, _)| *id == plugin)
    }

    /// Each place once: plugins share the memory, and mostly one Redis.
    fn places(&self, of: Option<Uuid>) -> Vec<&Place> {
        let mut places: Vec<&Place> = Vec::new();
        for (_, place) in self.0.iter().filter(|(id, _)| of.is_none_or(|of| of == *id)) {
            if !places.iter().any(|known| known.is(place)) {
                places.push(place);
            }
        }
        places
    }

    /// Purges all entries of all plugins.
    ///
    /// # Errors
    /// A Redis that does not answer; what is elsewhere is purged all the same.
    pub async fn purge(&self) -> Result<(), Away> {
        let mut outcome = Ok(());
        for place in self.places(None) {
            match place {
                Place::Memory(store) => store.clear(),
                Place::Redis(client) => outcome = outcome.and(purge(client).await),
            }
        }
        outcome
    }

    /// An entry by its key (`X-Cache-Key`), of one plugin or of any.
    ///
    /// # Errors
    /// It is not in memory, and Redis does not answer.
    pub async fn entry(&self, plugin: Option<Uuid>, key: &str) -> Result<Option<Value>, Away> {
        let Some(key) = Key::parse(key) else { return Ok(None) };
        for place in self.places(plugin) {
            let found = match place {
                Place::Memory(store) => {
                    store.get(&key, seconds(SystemTime::now())).map(|entry| Entry::clone(&entry))
                }
                Place::Redis(client) => {
                    let mut pipeline = pipe();
                    pipeline.cmd("GET").arg(name(&key));
                    let answer: Vec<Option<Vec<u8>>> = client.ask(pipeline)?.answer().await?;
                    answer.into_iter().flatten().next().and_then(|bytes| Entry::decode(Bytes::from(bytes)))
                }
            };
            if let Some(entry) = found {
                return Ok(Some(shown(&entry)));
            }
        }
        Ok(None)
    }

    /// Purges an entry; false when there is none.
    ///
    /// # Errors
    /// A Redis that does not answer.
    pub async fn remove(&self, plugin: Option<Uuid>, key: &str) -> Result<bool, Away> {
        let Some(key) = Key::parse(key) else { return Ok(false) };
        let mut removed = false;
        for place in self.places(plugin) {
            removed |= match place {
                Place::Memory(store) => store.purge(&key, seconds(SystemTime::now())),
                Place::Redis(client) => {
                    let mut pipeline = pipe();
                    pipeline.cmd("DEL").arg(name(&key));
                    let gone: Vec<u64> = client.ask(pipeline)?.answer().await?;
                    gone.into_iter().sum::<u64>() > 0
                }
            };
        }
        Ok(removed)
    }
}

fn name(key: &Key) -> String {
    format!("{PREFIX}{}", key.hex())
}

/// Walks through Redis: what is stored meanwhile may stay.
async fn purge(client: &Arc<Client>) -> Result<(), Away> {
    let mut cursor = 0_u64;
    loop {
        let mut pipeline = pipe();
        pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(format!("{PREFIX}*")).arg("COUNT").arg(AT_ONCE);
        let (next, names): (u64, Vec<Vec<u8>>) =
            client.ask::<((u64, Vec<Vec<u8>>),)>(pipeline)?.answer().await?.0;
        if !names.is_empty() {
            let mut pipeline = pipe();
            pipeline.cmd("DEL").arg(names);
            let _: Vec<u64> = client.ask(pipeline)?.answer().await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// As Kong shows entries.
fn shown(entry: &Entry) -> Value {
    let mut headers = Map::new();
    for name in entry.headers.keys() {
        let mut values: Vec<Value> = entry
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned().into())
            .collect();
        let value = if values.len() == 1 { values.swap_remove(0) } else { values.into() };
        headers.insert(name.as_str().to_owned(), value);
    }
    json!({
        "status": entry.status.as_u16(),
        "headers": headers,
        "body": String::from_utf8_lossy(&entry.body),
        "body_len": entry.body.len(),
        "timestamp": entry.stored_at,
        "ttl": entry.ttl,
        "version": 1,
    })
}
