//! The running store: one writer, any number of readers without locks, waiting queries.
//!
//! A writer thread takes commands in batches, applies them to its own next version, brings the batch to disk
//! with one sync, and only then publishes the version, answers the writers and wakes the watchers concerned.
//! So nobody ever sees a state that a crash could take back. When the disk refuses, the next version is dropped,
//! the writers get an error, and the store goes on with the published one. A writer thread that panics is the end: see
//! [`Alarm`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, WriteError};
use crate::feed::Feed;
use crate::state::{Command, Outcome, State};
use crate::storage::Folder;

mod alarm;
mod compaction;
mod room;
#[cfg(test)]
mod simulation;
pub mod watch;
mod writer;

pub(crate) use alarm::{Alarm, Guard};
pub(crate) use room::Room;

use compaction::{Compaction, Thread};
use room::Rooms;
use watch::Interest;
use writer::{Refusal, Store, Writer};

/// Commands waiting for the writer; beyond it writers wait.
const QUEUE: usize = 4096;

type WriteResult = Result<Written, WriteError>;

struct Request {
    command: Command,
    reply: oneshot::Sender<WriteResult>,
    /// Where the writer of the command waits.
    room: Arc<Room>,
}

/// What a writer is told.
struct Answer {
    reply: oneshot::Sender<WriteResult>,
    outcome: WriteResult,
}

impl Answer {
    fn give(self) {
        // a writer that went away is not an error
        let _ = self.reply.send(self.outcome);
    }
}

/// An acknowledged write.
#[derive(Debug)]
pub struct Written {
    pub outcome: Outcome,
}

/// The store as one thread sees it: those who wait by it are in one [`Room`].
pub struct Engine {
    store: Arc<Shared>,
    room: Arc<Room>,
}

/// What all threads share.
struct Shared {
    published: Arc<ArcSwap<State>>,
    rooms: Arc<Rooms>,
    refusal: Refusal,
    alarm: Alarm,
    feed: Arc<Feed>,
    queue: parking_lot::Mutex<Option<mpsc::Sender<Request>>>,
    writer: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Engine {
    /// Starts the writer. `folder` is where it stores, if anywhere; `compact_after` bytes of log it snapshots.
    pub fn start(state: State, folder: Option<Folder>, compact_after: u64) -> Result<Engine, Error> {
        let published = Arc::new(ArcSwap::from_pointee(state));
        let rooms = Arc::new(Rooms::default());
        let refusal: Refusal = Arc::new(ArcSwapOption::empty());
        let alarm = Alarm::default();
        let feed: Arc<Feed> = Arc::default();
        let (queue, requests) = mpsc::channel(QUEUE);
        let store = folder.map(|folder| {
            let owed = folder.has_replaced_files();
            let beside = Box::new(Thread::default());
            let compaction = Compaction::new(compact_after, owed, compaction::RETRY, beside);
            Store::new(folder, compaction, refusal.clone(), feed.clone())
        });
        let writer = Writer::new(published.clone(), rooms.clone(), store);
        let guard = alarm.guard("the writer");
        let thread = std::thread::Builder::new()
            .name("agent-writer".to_owned())
            .spawn(move || {
                let _guard = guard;
                writer.run(requests);
            })
            .map_err(Error::Thread)?;
        let room = rooms.common();
        let store = Shared {
            published,
            rooms,
            refusal,
            alarm,
            feed,
            queue: parking_lot::Mutex::new(Some(queue)),
            writer: parking_lot::Mutex::new(Some(thread)),
        };
        Ok(Engine { store: Arc::new(store), room })
    }

    /// The same store for a thread with a room of its own, which it has to [`Room::attend`].
    pub fn for_thread(&self) -> (Engine, Arc<Room>) {
        let room = self.store.rooms.open();
        (Engine { store: self.store.clone(), room: room.clone() }, room)
    }

    /// Why the disk refuses writes, while it does.
    pub fn read_only(&self) -> Option<Arc<String>> {
        self.store.refusal.load_full()
    }

    /// What clients are told of the agent's doings.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.store.feed
    }

    /// Rings when something without which the agent is none has ended by a panic.
    pub fn alarm(&self) -> &Alarm {
        &self.store.alarm
    }

    /// The newest version that is on disk.
    pub fn state(&self) -> Arc<State> {
        self.store.published.load_full()
    }

    /// The same for a look that nothing is awaited in: cheaper, but not to be kept.
    pub fn glance(&self) -> arc_swap::Guard<Arc<State>> {
        self.store.published.load()
    }

    /// Applies a command; comes back when it is on disk and visible.
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let queue = self.store.queue.lock().clone().ok_or(WriteError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { command, reply, room: self.room.clone() };
        queue.send(request).await.map_err(|_| WriteError::Stopping)?;
        answer.await.map_err(|_| WriteError::Stopping)?
    }

    /// Waits until `index_of` a version passes `after`, or for `wait`; gives the version to answer from.
    pub async fn wait(
        &self,
        interest: &Interest,
        after: u64,
        wait: Duration,
        index_of: impl Fn(&State) -> u64,
    ) -> Arc<State> {
        let state = self.state();
        if index_of(&state) > after {
            return state;
        }
        drop(state);
        let deadline = tokio::time::Instant::now() + wait;
        let waiter = self.room.subscribe(interest);
        loop {
            // before the look at the state: a change that comes after that look wakes it
            let woken = waiter.woken();
            let state = self.state();
            if index_of(&state) > after || self.stopping() {
                return state;
            }
            drop(state);
            if tokio::time::timeout_at(deadline, woken).await.is_err() {
                return self.state();
            }
            self.room.count_wake();
        }
    }

    /// How many queries wait now.
    pub fn waiting(&self) -> usize {
        self.store.rooms.waiting()
    }

    /// How many times a waiting query was woken so far.
    pub fn woken(&self) -> u64 {
        self.store.rooms.woken()
    }

    /// Whether waiting queries are being let go for good.
    pub fn stopping(&self) -> bool {
        self.store.rooms.closed()
    }

    /// Lets all waiting queries answer with what there is.
    pub fn release_watchers(&self) {
        self.store.rooms.close();
        self.store.feed.close();
    }

    /// Takes no more commands. The writer finishes what was accepted, ends and gives the folder free.
    pub fn close(&self) {
        self.release_watchers();
        self.store.queue.lock().take();
    }

    /// Closes and waits for the writer.
    pub async fn stop(&self) {
        self.close();
        let thread = self.store.writer.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the agent's writer thread ended badly");
            }
        }
    }
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::{Registration, SetMode};
    use crate::state::model::{Check, Node};
    use crate::state::{Table, Topic};

    pub(super) fn registration(node: &str, check_of: &str) -> Command {
        let node = Node { node: node.to_owned(), address: "10.0.0.1".into(), ..Node::default() };
        let check = Check {
            node: node.node.clone(),
            check_id: "c".into(),
            service_id: check_of.into(),
            ..Check::default()
        };
        Command::Register(Box::new(Registration {
            node,
            skip_node_update: false,
            service: None,
            checks: vec![check],
        }))
    }

    /// The classic bug: a change between the look and the wait. Nobody may miss the last state, however writers and
    /// watchers fall together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_watcher_sees_the_last_state() {
        const WRITERS: u64 = 8;
        const WRITES: u64 = 300;
        const WATCHERS: usize = 24;
        let engine = Arc::new(Engine::start(State::default(), None, u64::MAX).unwrap());
        let mut watchers = Vec::new();
        for number in 0..WATCHERS {
            let engine = engine.clone();
            watchers.push(tokio::spawn(async move {
                let key: Arc<str> = format!("k/{}", number as u64 % WRITERS).into();
                let interest = match number % 3 {
                    0 => Interest::Prefix("k/".into()),
                    _ => Interest::One(Topic::Key(key.clone())),
                };
                let last = WRITES.to_string();
                let mut index = 0;
                loop {
                    let index_of = |state: &State| match &interest {
                        Interest::Prefix(prefix) => state.kv_prefix_index(prefix),
                        _ => state.kv_get(&key).map_or(0, |entry| entry.modify_index),
                    };
                    let state = engine.wait(&interest, index, Duration::from_secs(60), index_of).await;
                    assert!(index_of(&state) > index, "woken by nothing, or never");
                    index = index_of(&state);
                    let at_end = |entry: &Arc<crate::state::model::KvEntry>| entry.value == last;
                    if match &interest {
                        Interest::Prefix(_) => {
                            state.kv_under("k/").filter(|e| at_end(e)).count() as u64 == WRITERS
                        }
                        _ => state.kv_get(&key).is_some_and(at_end),
                    } {
                        return;
                    }
                }
            }));
        }
        let writers = (0..WRITERS).map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for value in 1..=WRITES {
                    let (key, value) = (format!("k/{writer}"), value.to_string().into());
                    engine
                        .write(Command::KvSet { key, value, flags: 0, mode: SetMode::Plain })
                        .await
                        .unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        for (number, watcher) in watchers.into_iter().enumerate() {
            let end = tokio::time::timeout(Duration::from_secs(20), watcher).await;
            end.unwrap_or_else(|_| panic!("watcher {number} never saw the last state")).unwrap();
        }
        assert_eq!(engine.waiting(), 0);
        engine.stop().await;
    }

    /// One change wakes those who wait for it, each once, and touches nobody else.
    #[tokio::test]
    async fn a_change_wakes_those_it_concerns_once() {
        let engine = Arc::new(Engine::start(State::default(), None, u64::MAX).unwrap());
        let wait = |interest: Interest| {
            let engine = engine.clone();
            tokio::spawn(async move {
                engine.wait(&interest, 1, Duration::from_secs(60), |state| state.index()).await.index()
            })
        };
        let key = |name: &str| Interest::One(Topic::Key(name.into()));
        let concerned: Vec<_> = (0..500)
            .map(|n| match n % 3 {
                0 => wait(Interest::Prefix("a".into())),
                1 => wait(Interest::Prefix("".into())),
                _ => wait(key("a/b")),
            })
            .collect();
        let tables = Interest::Any(vec![Topic::Table(Table::Nodes), Topic::Table(Table::Services)]);
        let service = Interest::One(Topic::Service("a/b".into()));
        let others = [key("a"), key("a/bc"), Interest::Prefix("a/b/".into()), tables, service].map(wait);
        while engine.waiting() < concerned.len() + others.len() {
            tokio::task::yield_now().await;
        }
        let set =
            |key: &str| Command::KvSet { key: key.into(), value: "v".into(), flags: 0, mode: SetMode::Plain };
        engine.write(set("a/b")).await.unwrap();
        for watcher in &concerned {
            while !watcher.is_finished() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!((engine.woken(), engine.waiting()), (concerned.len() as u64, others.len()));
        assert!(others.iter().all(|watcher| !watcher.is_finished()));
        engine.write(registration("n1", "")).await.unwrap();
        while engine.waiting() == others.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!((engine.woken(), engine.waiting()), (concerned.len() as u64 + 1, others.len() - 1));
        engine.stop().await;
        for watcher in others {
            watcher.await.unwrap();
        }
        assert_eq!(engine.waiting(), 0);
    }
}
