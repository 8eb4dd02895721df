//! The running store: one writer, any number of readers without locks, waiting queries.
//!
//! A writer thread takes commands in batches, applies them to its own next version, brings the batch to disk
//! with one sync, and only then publishes the version, answers the writers and wakes the watchers concerned.
//! So nobody ever sees a state that a crash could take back. When the disk refuses, the next version is dropped,
//! the writers get an error, and the store goes on with the published one.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, WriteError};
use crate::state::{Applied, Command, Outcome, State, Topic};
use crate::storage::{Entry, Folder, SnapshotTicket, frame};

pub mod watch;

use watch::{Interest, Watches};

/// Commands waiting for the writer; beyond it writers wait.
const QUEUE: usize = 4096;
/// Most commands of one group commit.
const BATCH: usize = 1024;
/// Most bytes of one group commit.
const BATCH_BYTES: usize = 8 << 20;

struct Request {
    command: Command,
    reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// An acknowledged write.
#[derive(Debug)]
pub struct Written {
    pub outcome: Outcome,
}

pub struct Engine {
    published: Arc<ArcSwap<State>>,
    watches: Arc<Watches>,
    queue: parking_lot::Mutex<Option<mpsc::Sender<Request>>>,
    writer: parking_lot::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Engine {
    /// Starts the writer. `folder` is where it stores, if anywhere; `compact_after` bytes of log it snapshots.
    pub fn start(state: State, folder: Option<Folder>, compact_after: u64) -> Result<Engine, Error> {
        let published = Arc::new(ArcSwap::from_pointee(state.clone()));
        let watches = Arc::new(Watches::default());
        let (queue, requests) = mpsc::channel(QUEUE);
        let writer = Writer {
            head: state,
            checkpoint: published.load_full(),
            applied: Vec::new(),
            published: published.clone(),
            watches: watches.clone(),
            disk: folder.map(|folder| Disk { folder, compact_after, compactor: None, refused: false }),
        };
        let thread = std::thread::Builder::new()
            .name("agent-writer".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(Error::Thread)?;
        Ok(Engine {
            published,
            watches,
            queue: parking_lot::Mutex::new(Some(queue)),
            writer: parking_lot::Mutex::new(Some(thread)),
        })
    }

    /// The newest version that is on disk.
    pub fn state(&self) -> Arc<State> {
        self.published.load_full()
    }

    /// Applies a command; comes back when it is on disk and visible.
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let queue = self.queue.lock().clone().ok_or(WriteError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        queue.send(Request { command, reply }).await.map_err(|_| WriteError::Stopping)?;
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
        let waiter = self.watches.subscribe(interest);
        loop {
            // before the look at the state: a change that comes after that look wakes it
            let woken = waiter.woken();
            let state = self.state();
            if index_of(&state) > after || self.watches.closed() {
                return state;
            }
            drop(state);
            if tokio::time::timeout_at(deadline, woken).await.is_err() {
                return self.state();
            }
            self.watches.count_wake();
        }
    }

    /// How many queries wait now.
    pub fn waiting(&self) -> usize {
        self.watches.len()
    }

    /// How many times a waiting query was woken so far.
    pub fn woken(&self) -> u64 {
        self.watches.woken()
    }

    /// Lets all waiting queries answer with what there is.
    pub fn release_watchers(&self) {
        self.watches.close();
    }

    /// Takes no more commands. The writer finishes what was accepted, ends and gives the folder free.
    pub fn close(&self) {
        self.release_watchers();
        self.queue.lock().take();
    }

    /// Closes and waits for the writer.
    pub async fn stop(&self) {
        self.close();
        let thread = self.writer.lock().take();
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

struct Disk {
    folder: Folder,
    compact_after: u64,
    compactor: Option<std::thread::JoinHandle<()>>,
    refused: bool,
}

struct Writer {
    /// The next version: the published one and what was applied since.
    head: State,
    /// A version to go back to and the commands that lead from it to `head`. Going back by doing those again costs
    /// something only when a command fails half-way; a clone of `head` before every command would make each of them copy
    /// every node of the maps that it touches.
    checkpoint: Arc<State>,
    applied: Vec<(u64, Command)>,
    published: Arc<ArcSwap<State>>,
    watches: Arc<Watches>,
    disk: Option<Disk>,
}

struct Done {
    reply: oneshot::Sender<Result<Written, WriteError>>,
    result: Result<Written, WriteError>,
}

impl Writer {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut frames = Vec::new();
        let mut topics = Vec::new();
        let mut done = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            frames.clear();
            let mut next = Some(first);
            while let Some(request) = next {
                self.take(request, &mut frames, &mut topics, &mut done);
                next = if done.len() < BATCH && frames.len() < BATCH_BYTES {
                    requests.try_recv().ok()
                } else {
                    None
                };
            }
            self.commit(&frames, &mut topics, &mut done);
        }
        if let Some(compactor) = self.disk.and_then(|d| d.compactor)
            && compactor.join().is_err()
        {
            tracing::error!("the agent's snapshot thread ended badly");
        }
    }

    fn take(
        &mut self,
        request: Request,
        frames: &mut Vec<u8>,
        topics: &mut Vec<Topic>,
        done: &mut Vec<Done>,
    ) {
        let Request { command, reply } = request;
        let at = now();
        let (Applied { outcome, changed, topics: concerned }, torn) = self.head.apply_unguarded(&command, at);
        let mut result = outcome.map_err(WriteError::from);
        if torn {
            self.go_back();
        } else if changed && self.disk.is_some() {
            let whole = frames.len();
            let entry = Entry { index: self.head.index(), at, command: &command };
            if let Err(error) = frame::encode(frames, &entry) {
                frames.truncate(whole);
                self.go_back();
                result = Err(WriteError::ReadOnly(error.to_string()));
            }
        }
        if changed && result.is_ok() {
            topics.extend(concerned);
            self.applied.push((at, command));
        }
        done.push(Done { reply, result: result.map(|outcome| Written { outcome }) });
    }

    /// Takes back what the last command did. Each command is done again at most once for that: the checkpoint moves along.
    fn go_back(&mut self) {
        self.head = State::clone(&self.checkpoint);
        for (at, command) in self.applied.drain(..) {
            self.head.apply_unguarded(&command, at);
        }
        self.checkpoint = Arc::new(self.head.clone());
    }

    fn commit(&mut self, frames: &[u8], topics: &mut Vec<Topic>, done: &mut Vec<Done>) {
        let stored = match &mut self.disk {
            Some(disk) if !frames.is_empty() => disk.append(frames),
            _ => Ok(()),
        };
        match stored {
            Ok(()) => {
                self.checkpoint = Arc::new(self.head.clone());
                self.applied.clear();
                self.published.store(self.checkpoint.clone());
                for answer in done.drain(..) {
                    // a writer that went away is not an error
                    let _ = answer.reply.send(answer.result);
                }
                for topic in topics.drain(..) {
                    self.watches.wake(&topic);
                }
                if let Some(disk) = &mut self.disk {
                    disk.compact(&self.head);
                }
            }
            Err(text) => {
                self.checkpoint = self.published.load_full();
                self.head = State::clone(&self.checkpoint);
                self.applied.clear();
                topics.clear();
                for answer in done.drain(..) {
                    let _ = answer.reply.send(Err(WriteError::ReadOnly(text.clone())));
                }
            }
        }
    }
}

impl Disk {
    fn append(&mut self, frames: &[u8]) -> Result<(), String> {
        match self.folder.append(frames) {
            Ok(()) => {
                if std::mem::take(&mut self.refused) {
                    tracing::info!("the disk takes writes again: the agent is writable");
                }
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::error!(%error, "the disk refuses writes: the agent is read-only until it takes them again");
                }
                Err(error.to_string())
            }
        }
    }

    fn compact(&mut self, state: &State) {
        if self.folder.log_length() < self.compact_after {
            return;
        }
        if self.compactor.as_ref().is_some_and(|c| !c.is_finished()) {
            return;
        }
        let ticket: SnapshotTicket = match self.folder.rotate() {
            Ok(ticket) => ticket,
            Err(error) => {
                tracing::warn!(%error, "cannot begin a new log; going on with the old one");
                return;
            }
        };
        let state = state.clone();
        let spawned =
            std::thread::Builder::new().name("agent-snapshot".to_owned()).spawn(move || {
                match ticket.write(&state) {
                    Ok(bytes) => tracing::info!(bytes, index = state.index(), "snapshot written"),
                    Err(error) => tracing::warn!(%error, "cannot write a snapshot; the logs stay"),
                }
            });
        match spawned {
            Ok(thread) => self.compactor = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start the snapshot thread; the logs stay"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::state::Table;
    use crate::state::command::{Registration, SetMode, TxnOp};
    use crate::state::model::{Check, Node};

    fn put(writer: &mut Writer, key: &str) -> Result<Written, WriteError> {
        let command = Command::KvSet { key: key.into(), value: "v".into(), flags: 0, mode: SetMode::Plain };
        let (reply, mut answer) = oneshot::channel();
        let (mut frames, mut topics, mut done) = (Vec::new(), Vec::new(), Vec::new());
        writer.take(Request { command, reply }, &mut frames, &mut topics, &mut done);
        writer.commit(&frames, &mut topics, &mut done);
        answer.try_recv().unwrap()
    }

    #[test]
    fn a_full_disk_makes_it_read_only_and_it_heals() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, head) = Folder::open(dir.path()).unwrap();
        let published = Arc::new(ArcSwap::from_pointee(head.clone()));
        let disk = Disk { folder, compact_after: u64::MAX, compactor: None, refused: false };
        let mut writer = Writer {
            head,
            checkpoint: published.load_full(),
            applied: Vec::new(),
            published: published.clone(),
            watches: Arc::default(),
            disk: Some(disk),
        };
        put(&mut writer, "before").unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let real = writer.disk.as_mut().unwrap().folder.swap_log(full);
        for _ in 0..2 {
            assert!(matches!(put(&mut writer, "during"), Err(WriteError::ReadOnly(_))));
        }
        assert!(published.load().kv_get("during").is_none() && published.load().kv_get("before").is_some());
        writer.disk.as_mut().unwrap().folder.swap_log(real);
        put(&mut writer, "after").unwrap();
        assert!(published.load().kv_get("after").is_some());
        drop(writer);
        let (_folder, restored) = Folder::open(dir.path()).unwrap();
        let keys: Vec<_> = restored.kv_under("").map(|e| e.key.clone()).collect();
        assert_eq!(keys, ["after", "before"]);
        assert_eq!(restored.index(), published.load().index());
    }

    fn kv(verb: &str, key: &str, index: u64) -> TxnOp {
        let (verb, key) = (verb.to_owned(), key.to_owned());
        TxnOp::Kv { verb, key, value: "v".into(), flags: 0, index, session: String::new() }
    }

    fn registration(node: &str, check_of: &str) -> Command {
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

    /// Commands that fail half-way, between others in one batch: as if they had never been, here and on disk.
    #[test]
    fn a_command_that_fails_half_way_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, head) = Folder::open(dir.path()).unwrap();
        let published = Arc::new(ArcSwap::from_pointee(head.clone()));
        let disk = Disk { folder, compact_after: u64::MAX, compactor: None, refused: false };
        let mut writer = Writer {
            head,
            checkpoint: published.load_full(),
            applied: Vec::new(),
            published: published.clone(),
            watches: Arc::default(),
            disk: Some(disk),
        };
        let mut expected = State::default();
        for batch in 0..3 {
            let (mut frames, mut topics, mut done) = (Vec::new(), Vec::new(), Vec::new());
            let set = |key: &str| Command::KvSet {
                key: format!("{batch}/{key}"),
                value: "v".into(),
                flags: 0,
                mode: SetMode::Plain,
            };
            let commands = [
                set("a"),
                Command::Txn(vec![kv("set", "x", 0), kv("cas", "x", 77)]),
                registration("n1", ""),
                registration("torn", "nobody's"),
                set("b"),
                Command::Txn(vec![kv("delete-tree", "", 0), kv("get", "gone", 0)]),
                registration("n2", ""),
            ];
            for command in commands {
                let (reply, _answer) = oneshot::channel();
                // a refusal is part of the history
                let _outcome = expected.apply(&command, now());
                writer.take(Request { command, reply }, &mut frames, &mut topics, &mut done);
            }
            writer.commit(&frames, &mut topics, &mut done);
        }
        let image = |state: &State| state.records().map(|r| format!("{r:?}")).collect::<Vec<_>>();
        assert!(expected.node("torn").is_none() && expected.node("n2").is_some());
        assert_eq!(image(&published.load()), image(&expected));
        drop(writer);
        let (_folder, restored) = Folder::open(dir.path()).unwrap();
        assert_eq!(image(&restored), image(&expected));
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
