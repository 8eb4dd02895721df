//! Who waits for what, so that a change wakes only those it concerns. All who wait for the same share one [`Notify`].

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::state::Topic;

type Hasher = foldhash::fast::RandomState;

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

/// Places of one kind; one goes with its last waiter.
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

/// All places of a room.
#[derive(Default)]
pub(super) struct Waiting {
    topics: Places<Topic>,
    /// By the set of topics. Endpoints wait for a handful of such sets.
    sets: Places<Vec<Topic>>,
    prefixes: Places<Arc<str>>,
    /// How many prefixes of a length there are, so that a key is looked up at those lengths only.
    lengths: BTreeMap<usize, usize>,
}

impl Waiting {
    pub fn enter(&mut self, interest: &Interest) -> Arc<Notify> {
        match interest {
            Interest::One(topic) => self.topics.enter(topic).0,
            Interest::Any(topics) => self.sets.enter(topics).0,
            Interest::Prefix(prefix) => {
                let (notify, first) = self.prefixes.enter(prefix);
                if first {
                    *self.lengths.entry(prefix.len()).or_insert(0) += 1;
                }
                notify
            }
        }
    }

    pub fn leave(&mut self, interest: &Interest) {
        match interest {
            Interest::One(topic) => {
                self.topics.leave(topic);
            }
            Interest::Any(topics) => {
                self.sets.leave(topics);
            }
            Interest::Prefix(prefix) => {
                if self.prefixes.leave(prefix)
                    && let Some(count) = self.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    /// Adds the places that a change of `topic` concerns.
    pub fn concerned(&self, topic: &Topic, found: &mut Vec<Arc<Notify>>) {
        let own = self.topics.0.get(topic);
        found.extend(own.map(|place| place.notify.clone()));
        match topic {
            Topic::Key(key) => {
                let lengths = self.lengths.range(..=key.len()).map(|(length, _)| *length);
                let places = lengths.filter_map(|length| self.prefixes.0.get(key.get(..length)?));
                found.extend(places.map(|place| place.notify.clone()));
            }
            _ => {
                let sets = self.sets.0.iter().filter(|(topics, _)| topics.contains(topic));
                found.extend(sets.map(|(_, place)| place.notify.clone()));
            }
        }
    }

    pub fn all(&self) -> Vec<Arc<Notify>> {
        let topics = self.topics.0.values();
        let all = topics.chain(self.sets.0.values()).chain(self.prefixes.0.values());
        all.map(|place| place.notify.clone()).collect()
    }
}
