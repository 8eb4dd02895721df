//! The memory entries are kept in: bounded in bytes, shared by all workers. What was not used lately makes room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::entry::Entry;
use super::key::Key;

/// Bytes kept at most, Kong's `mem_cache_size`.
const BYTES: usize = 128 * 1024 * 1024;
const SHARDS: usize = 16;

#[derive(Debug)]
struct Kept {
    entry: Arc<Entry>,
    /// Seconds since 1970.
    until: u64,
    used: AtomicBool,
    /// Which of the queue's places is this entry's.
    turn: u64,
}

#[derive(Debug, Default)]
struct Shard {
    kept: HashMap<Key, Kept, RandomState>,
    /// Oldest first. An entry that was used gets a second round; places of replaced entries are passed over.
    queue: VecDeque<(Key, u64)>,
    bytes: usize,
    turn: u64,
}

#[derive(Debug)]
pub(in crate::plugins) struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Bytes of one shard.
    most: usize,
}

impl Default for Store {
    fn default() -> Self {
        Store::of(BYTES)
    }
}

impl Store {
    fn of(bytes: usize) -> Store {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Store { shards, hasher: RandomState::default(), most: bytes / SHARDS }
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        use std::hash::BuildHasher as _;
        &self.shards[(self.hasher.hash_one(key) as usize) % SHARDS]
    }

    /// An entry whose time is not over.
    pub(super) fn get(&self, key: &Key, now: u64) -> Option<Arc<Entry>> {
        let mut shard = self.shard(key).lock();
        let kept = shard.kept.get(key)?;
        if kept.until > now {
            kept.used.store(true, Relaxed);
            return Some(Arc::clone(&kept.entry));
        }
        shard.remove(key);
        None
    }

    /// Keeps an entry for so many seconds, instead of one there may be.
    pub(super) fn put(&self, key: Key, entry: Entry, seconds: u64) {
        let size = entry.size();
        if size > self.most {
            return;
        }
        let mut shard = self.shard(&key).lock();
        shard.remove(&key);
        while shard.bytes + size > self.most && shard.evict() {}
        shard.turn += 1;
        let turn = shard.turn;
        let until = entry.stored_at.saturating_add(seconds);
        shard.bytes += size;
        shard.queue.push_back((key, turn));
        shard.kept.insert(key, Kept { entry: Arc::new(entry), until, used: AtomicBool::new(false), turn });
    }
}

impl Store {
    /// False when there was no entry whose time is not over.
    pub(super) fn purge(&self, key: &Key, now: u64) -> bool {
        let mut shard = self.shard(key).lock();
        let lived = shard.kept.get(key).is_some_and(|kept| kept.until > now);
        shard.remove(key);
        lived
    }

    /// Purges everything.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let turn = shard.lock().turn;
            // freed when the lock is free again
            let old = std::mem::replace(&mut *shard.lock(), Shard { turn, ..Shard::default() });
            drop(old);
        }
    }
}

impl Shard {
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.entry.size();
        }
        // Places of entries that are gone must not pile up.
        if self.queue.len() > 2 * self.kept.len() + 64 {
            let kept = &self.kept;
            self.queue.retain(|(key, turn)| kept.get(key).is_some_and(|kept| kept.turn == *turn));
        }
    }

    /// False when there is nothing left.
    fn evict(&mut self) -> bool {
        while let Some((key, turn)) = self.queue.pop_front() {
            match self.kept.get(&key) {
                Some(kept) if kept.turn != turn => {}
                None => {}
                Some(kept) if kept.used.swap(false, Relaxed) => self.queue.push_back((key, turn)),
                Some(_) => {
                    self.remove(&key);
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn entry(bytes: usize) -> Entry {
        Entry {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![0; bytes]),
            stored_at: 100,
            ttl: 10,
        }
    }

    fn key(number: u32) -> Key {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Key::of_bytes(bytes)
    }

    #[test]
    fn entries_live_as_long_as_they_are_to() {
        let store = Store::default();
        store.put(key(1), entry(5), 10);
        assert!(store.get(&key(1), 109).is_some());
        assert!(store.get(&key(1), 110).is_none());
        assert!(store.get(&key(1), 100).is_none(), "it is gone");
        assert!(store.get(&key(2), 100).is_none());
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let store = Store::of(SHARDS * 10_000);
        store.put(key(0), entry(100), 10);
        for number in 1..5000 {
            store.put(key(number), entry(500), 10);
            assert!(store.get(&key(0), 101).is_some(), "used all the time, gone after {number}");
        }
        for shard in &store.shards {
            let shard = shard.lock();
            let bytes: usize = shard.kept.values().map(|kept| kept.entry.size()).sum();
            assert_eq!(bytes, shard.bytes);
            assert!(bytes <= 10_000 && shard.queue.len() <= 2 * shard.kept.len() + 65);
        }
        store.put(key(9), entry(20_000), 10);
        assert!(store.get(&key(9), 101).is_none(), "larger than there is room for");
    }
}
