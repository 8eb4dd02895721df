//! proxy-cache: answers of upstreams kept for a while, in memory or in Redis.

mod caches;
mod control;
mod entry;
mod key;
mod store;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use plinth_kong::{CacheHeaders, CacheStrategy, ProxyCacheConfig};
use redis::pipe;

use super::rate_limiting::number;
use super::redis::{Client, Pools, Question, Unavailable};
use crate::context::{EarlyBody, EarlyResponse, RequestContext, Source, Tap};
pub use caches::{Away, Caches};
use control::Directives;
use entry::Entry;
use key::Key;
pub(super) use store::Store;

const STATUS: HeaderName = HeaderName::from_static("x-cache-status");
const KEY: HeaderName = HeaderName::from_static("x-cache-key");
/// Largest body kept, bytes.
const MOST: usize = 8 * 1024 * 1024;
/// In front of the keys in Redis.
const PREFIX: &str = "proxy-cache:";

#[derive(Debug)]
pub(super) struct ProxyCache {
    statuses: Vec<u16>,
    methods: Vec<String>,
    content_types: Vec<String>,
    ttl: u64,
    cache_control: bool,
    storage_ttl: Option<u64>,
    key: key::Maker,
    shown: CacheHeaders,
    place: Place,
}

/// Where entries are kept.
#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<Store>),
    Redis(Arc<Client>),
}

impl Place {
    fn is(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Memory(one), Place::Memory(other)) => Arc::ptr_eq(one, other),
            (Place::Redis(one), Place::Redis(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// How the access phase goes on.
pub(super) enum Access {
    Done(Option<EarlyResponse>),
    /// Redis has to be asked.
    Ask(Question<Vec<Option<Vec<u8>>>>),
}

/// The request may be answered from the cache; carried from the access phase to the header phase.
#[derive(Clone, Copy, Debug)]
struct Wanted(Key);

impl ProxyCache {
    pub fn new(config: &ProxyCacheConfig, store: &Arc<Store>, pools: &Pools) -> Result<ProxyCache, String> {
        Ok(ProxyCache {
            statuses: config.response_code.clone(),
            methods: config.request_method.clone(),
            content_types: config.content_type.clone(),
            ttl: config.cache_ttl,
            cache_control: config.cache_control,
            storage_ttl: config.storage_ttl,
            key: key::Maker::new(config)?,
            shown: config.response_headers,
            place: match config.strategy {
                CacheStrategy::Memory => Place::Memory(Arc::clone(store)),
                CacheStrategy::Redis => Place::Redis(pools.client(&config.redis.0)?),
            },
        })
    }

    pub fn access(&self, ctx: &mut RequestContext) -> Access {
        let asked = self.directives(&ctx.head.headers);
        if !self.may_answer(ctx, &asked) {
            self.say(ctx, "Bypass");
            return Access::Done(None);
        }
        let key = self.key.of(ctx);
        if self.shown.key {
            ctx.reply_headers.insert(KEY, key.header());
        }
        ctx.carried.insert(Wanted(key));
        match &self.place {
            Place::Memory(store) => {
                let found = store.get(&key, seconds(ctx.timing.started_at));
                Access::Done(self.answer(ctx, &asked, found.as_deref()))
            }
            Place::Redis(client) => {
                let mut pipeline = pipe();
                pipeline.cmd("GET").arg(format!("{PREFIX}{}", key.hex()));
                match client.ask(pipeline) {
                    Ok(question) => Access::Ask(question),
                    Err(Unavailable) => Access::Done(self.answer(ctx, &asked, None)),
                }
            }
        }
    }

    /// After Redis answered, or did not: then the upstream is asked.
    pub fn resume(
        &self,
        ctx: &mut RequestContext,
        answer: Result<Vec<Option<Vec<u8>>>, Unavailable>,
    ) -> Option<EarlyResponse> {
        let found = answer.ok().and_then(|mut found| found.pop().flatten());
        let entry = found.and_then(|bytes| Entry::decode(Bytes::from(bytes)));
        let asked = self.directives(&ctx.head.headers);
        self.answer(ctx, &asked, entry.as_ref())
    }

    fn directives(&self, headers: &HeaderMap) -> Directives {
        if self.cache_control { Directives::of(headers) } else { Directives::default() }
    }

    fn may_answer(&self, ctx: &RequestContext, asked: &Directives) -> bool {
        let personal = self.cache_control && ctx.head.headers.contains_key(header::AUTHORIZATION);
        self.methods.iter().any(|method| *method == ctx.head.method.as_str())
            && !asked.no_store
            && !asked.no_cache
            && !personal
    }

    fn say(&self, ctx: &mut RequestContext, status: &'static str) {
        if self.shown.status {
            ctx.reply_headers.insert(STATUS, HeaderValue::from_static(status));
        }
    }

    fn answer(
        &self,
        ctx: &mut RequestContext,
        asked: &Directives,
        found: Option<&Entry>,
    ) -> Option<EarlyResponse> {
        let Some(entry) = found else {
            if asked.only_if_cached {
                ctx.carried.remove::<Wanted>();
                return Some(EarlyResponse::empty(StatusCode::GATEWAY_TIMEOUT));
            }
            self.say(ctx, "Miss");
            return None;
        };
        let age = seconds(ctx.timing.started_at).saturating_sub(entry.stored_at);
        let fresh = if self.cache_control { asked.accepts(age, entry.ttl) } else { age <= self.ttl };
        if !fresh {
            self.say(ctx, "Refresh");
            return None;
        }
        ctx.carried.remove::<Wanted>();
        self.say(ctx, "Hit");
        if self.shown.age {
            ctx.reply_headers.insert(header::AGE, number(age));
        }
        Some(EarlyResponse {
            status: entry.status,
            headers: entry.headers.clone(),
            body: EarlyBody::Kept(entry.body.clone()),
        })
    }

    /// Decides whether an upstream's answer is kept, before other plugins change it.
    pub fn header(&self, ctx: &mut RequestContext, head: &mut response::Parts) {
        let Some(Wanted(key)) = ctx.carried.remove::<Wanted>() else { return };
        if ctx.outcome.source != Source::Upstream || ctx.outcome.upstream_status.is_none() {
            return;
        }
        let now = ctx.timing.started_at;
        let Some(ttl) = self.keeps(head, now) else {
            if self.shown.status {
                head.headers.insert(STATUS, HeaderValue::from_static("Bypass"));
            }
            return;
        };
        let kept = self.storage_ttl.unwrap_or(ttl);
        let entry = Entry::new(head, seconds(now), ttl);
        ctx.bodies.tap = Some(Box::new(Keeping {
            key,
            entry: Some(entry),
            kept,
            body: Whole::default(),
            place: self.place.clone(),
        }));
    }

    /// For how many seconds.
    fn keeps(&self, head: &response::Parts, now: SystemTime) -> Option<u64> {
        let mut types = head.headers.get_all(header::CONTENT_TYPE).iter();
        let kind = types.next().and_then(|kind| kind.to_str().ok())?;
        if !self.statuses.contains(&head.status.as_u16())
            || types.next().is_some()
            || !self.content_types.iter().any(|known| known == kind)
        {
            return None;
        }
        if !self.cache_control {
            return Some(self.ttl);
        }
        let told = Directives::of(&head.headers);
        let kept = !told.private && !told.no_store && !told.no_cache;
        Some(told.lifetime(&head.headers, now)).filter(|ttl| kept && *ttl > 0)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A body as it passes; one piece, the usual case, is not copied.
#[derive(Debug, Default)]
struct Whole {
    one: Bytes,
    more: BytesMut,
    too_large: bool,
}

impl Whole {
    fn add(&mut self, data: &Bytes) {
        if self.too_large || self.one.len() + self.more.len() + data.len() > MOST {
            *self = Whole { too_large: true, ..Whole::default() };
        } else if self.one.is_empty() && self.more.is_empty() {
            self.one = data.clone();
        } else {
            self.more.extend_from_slice(&std::mem::take(&mut self.one));
            self.more.extend_from_slice(data);
        }
    }

    fn finish(self) -> Option<Bytes> {
        let whole = if self.more.is_empty() { self.one } else { self.more.freeze() };
        (!self.too_large).then_some(whole)
    }
}

/// An answer on its way to the client and into the cache.
#[derive(Debug)]
struct Keeping {
    key: Key,
    entry: Option<Entry>,
    kept: u64,
    body: Whole,
    place: Place,
}

impl Tap for Keeping {
    fn data(&mut self, data: &Bytes) {
        self.body.add(data);
    }

    fn end(mut self: Box<Self>, complete: bool) {
        let Some(mut entry) = self.entry.take().filter(|_| complete) else { return };
        let Some(body) = self.body.finish() else { return };
        entry.body = body;
        match &self.place {
            Place::Memory(store) => store.put(self.key, entry, self.kept),
            Place::Redis(client) => {
                let mut pipeline = pipe();
                let set = pipeline.cmd("SET").arg(format!("{PREFIX}{}", self.key.hex()));
                set.arg(entry.encode()).arg("EX").arg(self.kept).ignore();
                client.tell(pipeline);
            }
        }
    }
}

#[cfg(test)]
mod tests;
