//! Who waits for what. A change wakes only those it concerns.
//!
//! All who wait for the same share one [`Notify`]. A map's lock is held to find, to add or to remove one, never while
//! waiters are woken: those who are woken come back to the same maps at once, and would queue up behind the waker.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::state::Topic;

type Hasher = foldhash::fast::RandomState;

/// Parts of the topic map; topics are spread over them by hash.
const SHARDS: usize = 16;

/// What a query waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    One(Topic),
    Any(Vec<Topic>),
    /// Any key that starts with it.
    Prefix(Arc<str>),
}

/// Those who wait for the same.
#[derive(Default)]
struct Place {
    notify: Arc<Notify>,
    waiting: usize,
}

/// One lock's worth of places; one goes with its last waiter.
struct Places<K>(HashMap<K, Place, Hasher>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Places(HashMap::default())
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// True when it is the first at this place.
    fn enter(&mut self, key: &K) -> (Arc<Notify>, bool) {
        if let Some(place) = self.0.get_mut(key) {
            place.waiting += 1;
            return (place.notify.clone(), false);
        }
        let place = Place { waiting: 1, ..Place::default() };
        let notify = place.notify.clone();
        self.0.insert(key.clone(), place);
        (notify, true)
    }

    /// True when it was the last at this place.
    fn leave(&mut self, key: &K) -> bool {
        let Some(place) = self.0.get_mut(key) else { return false };
        place.waiting -= 1;
        let last = place.waiting == 0;
        if last {
            self.0.remove(key);
        }
        last
    }
}

#[derive(Default)]
struct Prefixes {
    places: Places<Arc<str>>,
    /// How many prefixes of a length there are, so that a key is looked up at those lengths only.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Default)]
pub struct Watches {
    hasher: Hasher,
    topics: [Mutex<Places<Topic>>; SHARDS],
    /// By the set of topics. Endpoints wait for a handful of such sets.
    sets: Mutex<Places<Vec<Topic>>>,
    prefixes: Mutex<Prefixes>,
    waiters: AtomicUsize,
    woken: AtomicU64,
    closed: AtomicBool,
}

/// One waiting query; its place is given up on drop.
pub struct Waiter<'a> {
    watches: &'a Watches,
    interest: &'a Interest,
    notify: Arc<Notify>,
}

impl Waiter<'_> {
    /// Ready once anything after this call concerns the query, whether it is polled before that or not.
    pub fn woken(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.watches.waiters.fetch_sub(1, Ordering::Relaxed);
        self.watches.leave(self.interest);
    }
}

impl Watches {
    pub fn subscribe<'a>(&'a self, interest: &'a Interest) -> Waiter<'a> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let notify = match interest {
            Interest::One(topic) => self.shard(topic).lock().enter(topic).0,
            Interest::Any(topics) => self.sets.lock().enter(topics).0,
            Interest::Prefix(prefix) => {
                let mut prefixes = self.prefixes.lock();
                let (notify, first) = prefixes.places.enter(prefix);
                if first {
                    *prefixes.lengths.entry(prefix.len()).or_insert(0) += 1;
                }
                notify
            }
        };
        Waiter { watches: self, interest, notify }
    }

    fn shard(&self, topic: &Topic) -> &Mutex<Places<Topic>> {
        &self.topics[self.hasher.hash_one(topic) as usize % SHARDS]
    }

    fn leave(&self, interest: &Interest) {
        match interest {
            Interest::One(topic) => {
                self.shard(topic).lock().leave(topic);
            }
            Interest::Any(topics) => {
                self.sets.lock().leave(topics);
            }
            Interest::Prefix(prefix) => {
                let mut prefixes = self.prefixes.lock();
                if prefixes.places.leave(prefix)
                    && let Some(count) = prefixes.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        prefixes.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    /// Wakes all whom a change of `topic` concerns.
    pub fn wake(&self, topic: &Topic) {
        let own = self.shard(topic).lock().0.get(topic).map(|place| place.notify.clone());
        if let Some(notify) = own {
            notify.notify_waiters();
        }
        match topic {
            Topic::Key(key) => self.wake_prefixes(key),
            _ => self.wake_sets(topic),
        }
    }

    fn wake_prefixes(&self, key: &str) {
        let concerned: Vec<Arc<Notify>> = {
            let prefixes = self.prefixes.lock();
            let lengths = prefixes.lengths.range(..=key.len()).map(|(length, _)| *length);
            let found = lengths.filter_map(|length| prefixes.places.0.get(key.get(..length)?));
            found.map(|place| place.notify.clone()).collect()
        };
        concerned.iter().for_each(|notify| notify.notify_waiters());
    }

    fn wake_sets(&self, topic: &Topic) {
        let concerned: Vec<Arc<Notify>> = {
            let sets = self.sets.lock();
            let found = sets.0.iter().filter(|(topics, _)| topics.contains(topic));
            found.map(|(_, place)| place.notify.clone()).collect()
        };
        concerned.iter().for_each(|notify| notify.notify_waiters());
    }

    /// How many wait now.
    pub fn len(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    /// Called by a waiter that was woken.
    pub fn count_wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times a waiting query was woken so far, by a change that concerned it or at the end.
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Wakes everybody, for good.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        fn all<K>(places: &Places<K>) -> Vec<Arc<Notify>> {
            places.0.values().map(|place| place.notify.clone()).collect()
        }
        let mut waiting: Vec<_> = self.topics.iter().flat_map(|shard| all(&shard.lock())).collect();
        waiting.extend(all(&self.sets.lock()));
        waiting.extend(all(&self.prefixes.lock().places));
        waiting.iter().for_each(|notify| notify.notify_waiters());
    }
}
