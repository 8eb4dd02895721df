//! Rooms: those who wait on one thread, and how they are called.
//!
//! To wake a task of another thread's runtime takes a lock and mostly a system call, which for thousands of watchers is
//! more than their answers cost. So each thread that serves has a room of its own: the writer leaves what concerns it at its bell
//! and rings once per commit, and the thread itself wakes its tasks. Answers to writers go the same way, before
//! the wake-ups of their commit.
//!
//! A room's lock is held to find, to add or to remove a place, never while anybody is woken: those who are woken come back
//! to the same room at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Answer;
use super::watch::{Interest, Waiting};
use crate::state::Topic;

/// What the thread of a room does when its bell rings.
enum Call {
    Wake(Arc<Notify>),
    Answer(Answer),
}

#[derive(Default)]
struct Bell {
    calls: Mutex<Vec<Call>>,
    rung: Notify,
}

#[derive(Default)]
pub(crate) struct Room {
    waiting: Mutex<Waiting>,
    /// None: whoever calls wakes.
    bell: Option<Bell>,
    waiters: AtomicUsize,
    woken: AtomicU64,
}

/// One waiting query; its place is given up on drop.
pub(super) struct Waiter<'a> {
    room: &'a Room,
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
        self.room.waiters.fetch_sub(1, Ordering::Relaxed);
        self.room.waiting.lock().leave(self.interest);
    }
}

impl Room {
    pub(super) fn subscribe<'a>(&'a self, interest: &'a Interest) -> Waiter<'a> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let notify = self.waiting.lock().enter(interest);
        Waiter { room: self, interest, notify }
    }

    /// Called by a waiter that was woken.
    pub(super) fn count_wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answer(&self, answer: Answer) {
        match &self.bell {
            Some(bell) => bell.calls.lock().push(Call::Answer(answer)),
            None => answer.give(),
        }
    }

    fn wake(&self, topics: &[Topic]) {
        let mut concerned = Vec::new();
        {
            let waiting = self.waiting.lock();
            topics.iter().for_each(|topic| waiting.concerned(topic, &mut concerned));
        }
        match &self.bell {
            Some(bell) => bell.calls.lock().extend(concerned.into_iter().map(Call::Wake)),
            None => concerned.iter().for_each(|notify| notify.notify_waiters()),
        }
    }

    /// Lets the room's thread do what was left for it.
    fn ring(&self) {
        if let Some(bell) = &self.bell
            && !bell.calls.lock().is_empty()
        {
            bell.rung.notify_one();
        }
    }

    /// For ever; to be run by the thread of the room.
    pub async fn attend(&self) {
        let Some(bell) = &self.bell else { return };
        let mut calls = Vec::new();
        loop {
            bell.rung.notified().await;
            std::mem::swap(&mut calls, &mut *bell.calls.lock());
            for call in calls.drain(..) {
                match call {
                    Call::Wake(place) => place.notify_waiters(),
                    Call::Answer(answer) => answer.give(),
                }
            }
        }
    }
}

/// All rooms.
#[derive(Default)]
pub(super) struct Rooms {
    /// Of those who have none of their own.
    common: Arc<Room>,
    others: RwLock<Vec<Arc<Room>>>,
    closed: AtomicBool,
}

impl Rooms {
    pub fn common(&self) -> Arc<Room> {
        self.common.clone()
    }

    /// A room for a thread that attends to it.
    pub fn open(&self) -> Arc<Room> {
        let room = Arc::new(Room { bell: Some(Bell::default()), ..Room::default() });
        self.others.write().push(room.clone());
        room
    }

    fn each(&self, mut f: impl FnMut(&Room)) {
        f(&self.common);
        self.others.read().iter().for_each(|room| f(room));
    }

    /// Wakes all whom changes of `topics` concern.
    pub fn wake(&self, topics: &[Topic]) {
        self.each(|room| room.wake(topics));
    }

    pub fn ring(&self) {
        self.each(Room::ring);
    }

    /// How many wait now.
    pub fn waiting(&self) -> usize {
        let mut sum = 0;
        self.each(|room| sum += room.waiters.load(Ordering::Relaxed));
        sum
    }

    /// How many times a waiting query was woken so far, by a change that concerned it or at the end.
    pub fn woken(&self) -> u64 {
        let mut sum = 0;
        self.each(|room| sum += room.woken.load(Ordering::Relaxed));
        sum
    }

    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Wakes everybody, for good.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.each(|room| {
            let all = room.waiting.lock().all();
            all.iter().for_each(|notify| notify.notify_waiters());
        });
    }
}
