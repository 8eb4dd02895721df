//! Encoded answers, kept as long as the index they were made at is the newest: a body is encoded once per
//! change and shared by all who ask or wait for it.
//!
//! Questions are spread over shards by hash. A lock is held to find or to keep a body, never while one is encoded: those who
//! need the same body at the same moment wait for the one who encodes it, all others go on.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

type Hasher = foldhash::fast::RandomState;

const SHARDS: usize = 16;
/// Most bytes of one generation of one shard; two generations are kept. 128 MiB in all at most, and one body per shard
/// that is larger than that.
const MOST_BYTES: usize = (64 << 20) / SHARDS;
/// Most bodies of one generation of one shard: questions are the client's to invent, and a small answer costs more than
/// its bytes.
const MOST_BODIES: usize = 16 * 1024 / SHARDS;

/// A body at an index, or the place where it is being encoded.
#[derive(Debug)]
struct Slot {
    index: u64,
    body: OnceLock<Bytes>,
    encoding: Mutex<()>,
}

#[derive(Debug, Default)]
struct Generation {
    slots: HashMap<Box<str>, Arc<Slot>, Hasher>,
    bytes: usize,
}

/// The bodies that were asked for since the last change of generations, and those of the time before.
#[derive(Debug, Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
pub struct Cache {
    hasher: Hasher,
    shards: [RwLock<Shard>; SHARDS],
    encoded: AtomicU64,
}

impl Cache {
    /// The body for `key` at `index`, encoded now if nobody did before. `index` must move with everything the body is
    /// made of.
    pub fn get_or_encode<E>(
        &self,
        key: &str,
        index: u64,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        if let Some(slot) = shard.read().young.slots.get(key)
            && slot.index == index
            && let Some(body) = slot.body.get()
        {
            return Ok(body.clone());
        }
        let slot = shard.write().enter(key, index);
        if slot.index > index {
            // a reader of an older version than the newest that was asked for: rare, and not worth a place
            return self.encode(encode);
        }
        if let Some(body) = slot.body.get() {
            return Ok(body.clone());
        }
        let _encoding = slot.encoding.lock();
        if let Some(body) = slot.body.get() {
            return Ok(body.clone());
        }
        let body = self.encode(encode)?;
        shard.write().fill(key, &slot, &body);
        Ok(body)
    }

    fn encode<E>(&self, encode: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        encode()
    }

    /// How many bodies were encoded so far.
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }
}

impl Generation {
    fn remove(&mut self, key: &str) -> Option<(Box<str>, Arc<Slot>)> {
        let (key, slot) = self.slots.remove_entry(key)?;
        self.bytes = self.bytes.saturating_sub(cost(&key, &slot));
        Some((key, slot))
    }
}

/// What a slot counts for: its question at once, its body when it has one.
fn cost(key: &str, slot: &Slot) -> usize {
    key.len() + slot.body.get().map_or(0, Bytes::len)
}

impl Shard {
    /// The slot for a key at an index, or the newer one that is there.
    fn enter(&mut self, key: &str, index: u64) -> Arc<Slot> {
        let newer = |slot: &Arc<Slot>| slot.index >= index;
        if let Some(slot) = self.young.slots.get(key).filter(|slot| newer(slot)) {
            return slot.clone();
        }
        let taken = self.young.remove(key).or_else(|| self.old.remove(key));
        let (key, slot) = match taken {
            Some((key, slot)) if newer(&slot) => (key, slot),
            taken => {
                let key = taken.map_or_else(|| Box::from(key), |(key, _)| key);
                (key, Arc::new(Slot { index, body: OnceLock::new(), encoding: Mutex::new(()) }))
            }
        };
        self.make_room(cost(&key, &slot));
        self.young.bytes += cost(&key, &slot);
        self.young.slots.insert(key, slot.clone());
        slot
    }

    /// Only under the shard's lock, so that what a slot counts for is known at any time.
    fn fill(&mut self, key: &str, slot: &Arc<Slot>, body: &Bytes) {
        // who encodes holds the slot's lock: nobody was before
        let _ = slot.body.set(body.clone());
        let here =
            |generation: &Generation| generation.slots.get(key).is_some_and(|kept| Arc::ptr_eq(kept, slot));
        if here(&self.young) {
            self.young.bytes += body.len();
            self.make_room(0);
        } else if here(&self.old) {
            self.old.bytes += body.len();
        }
    }

    /// A full generation becomes the old one; what nobody asked for since the last time is dropped.
    fn make_room(&mut self, more: usize) {
        if self.young.bytes + more > MOST_BYTES || self.young.slots.len() >= MOST_BODIES {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Barrier;

    use super::*;

    fn body(cache: &Cache, key: &str, index: u64, text: &str) -> Bytes {
        let encode = || Ok::<_, Infallible>(Bytes::copy_from_slice(text.as_bytes()));
        cache.get_or_encode(key, index, encode).unwrap()
    }

    #[test]
    fn a_body_is_encoded_once_per_index_however_many_need_it_at_once() {
        let cache = Cache::default();
        let start = Barrier::new(8);
        for index in 1..200 {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        let encode = || {
                            // long enough for the others to come
                            std::thread::yield_now();
                            Ok::<_, Infallible>(Bytes::from(index.to_string()))
                        };
                        assert_eq!(cache.get_or_encode("k", index, encode).unwrap(), index.to_string());
                    });
                }
            });
            assert_eq!(cache.encoded(), index);
        }
    }

    #[test]
    fn a_late_reader_of_an_old_version_gets_that_version_and_keeps_the_newer_one() {
        let cache = Cache::default();
        assert_eq!(body(&cache, "k", 5, "five"), "five");
        assert_eq!(body(&cache, "k", 4, "four"), "four");
        assert_eq!(body(&cache, "k", 5, "again"), "five");
        assert_eq!(cache.encoded(), 2);
    }

    #[test]
    fn what_could_not_be_encoded_is_not_kept() {
        let cache = Cache::default();
        assert_eq!(cache.get_or_encode("k", 1, || Err("no")), Err("no"));
        assert_eq!(body(&cache, "k", 1, "yes"), "yes");
    }

    #[test]
    fn it_stays_within_its_bounds_and_keeps_what_is_asked_for() {
        let cache = Cache::default();
        let large = "x".repeat(MOST_BYTES / 4);
        for round in 0..400 {
            body(&cache, "busy", 1, "busy");
            body(&cache, &format!("large {round}"), 1, &large);
        }
        for round in 0..4 * MOST_BODIES * SHARDS {
            if round % 64 == 0 {
                body(&cache, "busy", 1, "busy");
            }
            body(&cache, &round.to_string(), 1, "");
        }
        let before = cache.encoded();
        body(&cache, "busy", 1, "busy");
        assert_eq!(cache.encoded(), before, "the busy one was dropped");
        for shard in &cache.shards {
            let shard = shard.read();
            for generation in [&shard.young, &shard.old] {
                let real: usize = generation.slots.iter().map(|(key, slot)| cost(key, slot)).sum();
                assert_eq!(generation.bytes, real);
                assert!(real <= MOST_BYTES + large.len() && generation.slots.len() <= MOST_BODIES);
            }
        }
        let huge = "x".repeat(3 * MOST_BYTES);
        body(&cache, "huge", 1, &huge);
        let before = cache.encoded();
        body(&cache, "huge", 1, &huge);
        assert_eq!(cache.encoded(), before, "a body beyond the bound is still shared");
    }
}
