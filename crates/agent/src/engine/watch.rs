//! Who waits for what. A change wakes only those it concerns.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::state::Topic;

/// What a query waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    One(Topic),
    Any(Vec<Topic>),
    /// Any key that starts with it.
    Prefix(Arc<str>),
}

#[derive(Default)]
struct Prefixes {
    waiting: HashMap<Arc<str>, Arc<Notify>, foldhash::fast::RandomState>,
    /// How many prefixes of a length there are, so that a key is looked up at those lengths only.
    lengths: BTreeMap<usize, usize>,
}

#[derive(Default)]
pub struct Watches {
    topics: Mutex<HashMap<Topic, Arc<Notify>, foldhash::fast::RandomState>>,
    prefixes: Mutex<Prefixes>,
    waiters: AtomicUsize,
    closed: AtomicBool,
}

enum Place {
    Topic(Topic, Arc<Notify>),
    Prefix(Arc<str>, Arc<Notify>),
}

/// One waiting query; its places are given up on drop.
pub struct Waiter<'a> {
    watches: &'a Watches,
    places: Vec<Place>,
}

impl Waiter<'_> {
    /// Ready once anything after this call concerns the query.
    pub fn woken(&self) -> Woken<'_> {
        let arm = |place: &'_ Place| {
            let (Place::Topic(_, notify) | Place::Prefix(_, notify)) = place;
            notify.clone().notified_owned()
        };
        let mut all: Vec<_> = self.places.iter().map(|p| Box::pin(arm(p))).collect();
        for notified in &mut all {
            notified.as_mut().enable();
        }
        Woken { all, _waiter: std::marker::PhantomData }
    }
}

/// See [`Waiter::woken`].
pub struct Woken<'a> {
    all: Vec<Pin<Box<OwnedNotified>>>,
    _waiter: std::marker::PhantomData<&'a ()>,
}

impl Future for Woken<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.all.iter_mut().any(|n| n.as_mut().poll(context).is_ready()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.watches.waiters.fetch_sub(1, Ordering::Relaxed);
        for place in self.places.drain(..) {
            self.watches.forget(place);
        }
    }
}

impl Watches {
    pub fn subscribe(&self, interest: &Interest) -> Waiter<'_> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let places = match interest {
            Interest::One(topic) => vec![self.topic(topic)],
            Interest::Any(topics) => topics.iter().map(|t| self.topic(t)).collect(),
            Interest::Prefix(prefix) => vec![self.prefix(prefix)],
        };
        Waiter { watches: self, places }
    }

    fn topic(&self, topic: &Topic) -> Place {
        Place::Topic(topic.clone(), self.topics.lock().entry(topic.clone()).or_default().clone())
    }

    fn prefix(&self, prefix: &Arc<str>) -> Place {
        let mut prefixes = self.prefixes.lock();
        if let Some(notify) = prefixes.waiting.get(prefix) {
            return Place::Prefix(prefix.clone(), notify.clone());
        }
        let notify = Arc::new(Notify::new());
        prefixes.waiting.insert(prefix.clone(), notify.clone());
        *prefixes.lengths.entry(prefix.len()).or_insert(0) += 1;
        Place::Prefix(prefix.clone(), notify)
    }

    /// Drops the entry with its last waiter: then the map and that waiter hold the only two references.
    fn forget(&self, place: Place) {
        match place {
            Place::Topic(topic, notify) => {
                let mut topics = self.topics.lock();
                if Arc::strong_count(&notify) == 2 {
                    topics.remove(&topic);
                }
            }
            Place::Prefix(prefix, notify) => {
                let mut prefixes = self.prefixes.lock();
                let last = Arc::strong_count(&notify) == 2 && prefixes.waiting.remove(&prefix).is_some();
                if last && let Some(count) = prefixes.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        prefixes.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    pub fn wake(&self, topic: &Topic) {
        if let Some(notify) = self.topics.lock().get(topic) {
            notify.notify_waiters();
        }
        if let Topic::Key(key) = topic {
            let prefixes = self.prefixes.lock();
            for length in prefixes.lengths.range(..=key.len()).map(|(length, _)| *length) {
                let Some(prefix) = key.get(..length) else { continue };
                if let Some(notify) = prefixes.waiting.get(prefix) {
                    notify.notify_waiters();
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Wakes everybody, for good.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.topics.lock().values().for_each(|n| n.notify_waiters());
        self.prefixes.lock().waiting.values().for_each(|n| n.notify_waiters());
    }
}
