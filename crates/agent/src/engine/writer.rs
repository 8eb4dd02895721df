//! The one writer: batches of commands, applied, brought to disk by one sync, then published.
//!
//! When the disk refuses, the batch's writers get an error and the store goes on with what is published; every further
//! write tries again, and while there is none the writer asks the disk once a second, so that it is known to be
//! writable again before the next write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::compaction::Compaction;
use super::room::{Room, Rooms};
use super::{Answer, Request, Written, now};
use crate::error::WriteError;
use crate::feed::{Feed, Level};
use crate::state::{Applied, Command, State, Topic};
use crate::storage::{Entry, Folder, frame};

/// Most commands of one group commit.
const BATCH: usize = 1024;
/// Most bytes of one group commit; the last command may go beyond.
const BATCH_BYTES: usize = 8 << 20;
/// How often a disk that refused is asked whether it takes writes again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a write may wait for the writer to look for it while the disk refuses.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Why the disk refuses, while it does; shared with whoever reports it.
pub(super) type Refusal = Arc<ArcSwapOption<String>>;

pub(super) struct Store {
    folder: Folder,
    compaction: Compaction,
    refusal: Refusal,
    feed: Arc<Feed>,
    /// Bytes the disk refused last.
    refused: usize,
}

pub(super) struct Writer {
    /// The next version: the published one and what was applied since.
    head: State,
    /// A version to go back to and the commands that lead from it to `head`. Going back by doing those again costs
    /// something only when a command fails half-way; a clone of `head` before every command would make each of them copy
    /// every node of the maps that it touches.
    checkpoint: Arc<State>,
    applied: Vec<(u64, Command)>,
    published: Arc<ArcSwap<State>>,
    rooms: Arc<Rooms>,
    store: Option<Store>,
    batch: Batch,
}

/// What is gathered for one commit.
#[derive(Default)]
struct Batch {
    /// One frame with the entries of all commands that changed something; empty if none did.
    frame: Vec<u8>,
    topics: Vec<Topic>,
    done: Vec<Done>,
}

struct Done {
    answer: Answer,
    room: Arc<Room>,
}

impl Store {
    pub fn new(mut folder: Folder, compaction: Compaction, refusal: Refusal, feed: Arc<Feed>) -> Store {
        let refused = folder.refusal();
        let mut store = Store { folder, compaction, refusal, feed, refused: 0 };
        if let Some(error) = refused {
            // noted and said; there is nobody to tell yet
            let _ = store.note(Err(error));
        }
        store
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), String> {
        self.refused = frame.len();
        let stored = self.folder.append(frame);
        self.note(stored)
    }

    fn ask(&mut self) {
        let taken = self.folder.probe(self.refused);
        // an error is known already
        let _ = self.note(taken);
    }

    fn refuses(&self) -> bool {
        self.refusal.load().is_some()
    }

    /// One line when the disk begins to refuse, one when it takes writes again.
    fn note(&mut self, outcome: std::io::Result<()>) -> Result<(), String> {
        match outcome {
            Ok(()) => {
                if self.refusal.swap(None).is_some() {
                    const TEXT: &str = "the disk takes writes again: the agent is writable";
                    tracing::info!("{TEXT}");
                    self.feed.tell(Level::Info, "agent.storage", TEXT, Vec::new);
                }
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                if self.refusal.swap(Some(Arc::new(text.clone()))).is_none() {
                    const TEXT: &str =
                        "the disk refuses writes: the agent is read-only until it takes them again";
                    tracing::error!(%error, "{TEXT}");
                    self.feed.tell(Level::Error, "agent.storage", TEXT, || vec![("error", text.clone())]);
                }
                Err(text)
            }
        }
    }
}

impl Writer {
    pub fn new(published: Arc<ArcSwap<State>>, rooms: Arc<Rooms>, store: Option<Store>) -> Writer {
        let checkpoint = published.load_full();
        let head = State::clone(&checkpoint);
        Writer { head, checkpoint, applied: Vec::new(), published, rooms, store, batch: Batch::default() }
    }

    /// Until nobody can send any more.
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = self.next(&mut requests) {
            self.take(first);
            while self.has_room() {
                let Ok(request) = requests.try_recv() else { break };
                self.take(request);
            }
            self.commit();
        }
        if let Some(store) = &mut self.store {
            store.compaction.finish();
        }
    }

    /// The next command. While the disk refuses, it is asked in between.
    fn next(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<Request> {
        let mut ask_at = Instant::now() + ASK_AGAIN;
        while self.store.as_ref().is_some_and(Store::refuses) {
            match requests.try_recv() {
                Ok(request) => return Some(request),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::thread::sleep(LOOK_AGAIN),
            }
            if Instant::now() >= ask_at {
                self.ask();
                ask_at = Instant::now() + ASK_AGAIN;
            }
        }
        requests.blocking_recv()
    }

    fn has_room(&self) -> bool {
        self.batch.done.len() < BATCH && self.batch.frame.len() < BATCH_BYTES
    }

    pub(super) fn take(&mut self, request: Request) {
        let at = now();
        self.take_at(request, at);
    }

    pub(super) fn take_at(&mut self, request: Request, at: u64) {
        let Request { command, reply, room } = request;
        let (Applied { outcome, changed, topics }, torn) = self.head.apply_unguarded(&command, at);
        let mut result = outcome.map_err(WriteError::from);
        if torn {
            self.go_back();
        } else if changed
            && self.store.is_some()
            && let Err(error) = self.log(&command, at)
        {
            self.go_back();
            result = Err(WriteError::Unstorable(error.to_string()));
        }
        if changed && result.is_ok() {
            self.batch.topics.extend(topics);
            self.applied.push((at, command));
        }
        let outcome = result.map(|outcome| Written { outcome });
        self.batch.done.push(Done { answer: Answer { reply, outcome }, room });
    }

    /// Adds the command that was just applied to the batch's frame.
    fn log(&mut self, command: &Command, at: u64) -> std::io::Result<()> {
        let frame = &mut self.batch.frame;
        if frame.is_empty() {
            frame::begin(frame);
        }
        frame::push(frame, &Entry { index: self.head.index(), at, command })
    }

    /// Takes back what the last command did. Each command is done again at most once for that: the checkpoint moves along.
    fn go_back(&mut self) {
        self.head = State::clone(&self.checkpoint);
        for (at, command) in self.applied.drain(..) {
            self.head.apply_unguarded(&command, at);
        }
        self.checkpoint = Arc::new(self.head.clone());
    }

    /// Asks a disk that refuses whether it takes writes again.
    pub(super) fn ask(&mut self) {
        if let Some(store) = self.store.as_mut().filter(|store| store.refuses()) {
            store.ask();
        }
    }

    #[cfg(test)]
    pub(super) fn head(&self) -> &State {
        &self.head
    }

    pub(super) fn commit(&mut self) {
        let Batch { frame, topics, done } = &mut self.batch;
        let stored = match &mut self.store {
            Some(store) if !frame::is_empty(frame) => {
                frame::finish(frame, 0);
                store.append(frame)
            }
            _ => Ok(()),
        };
        frame.clear();
        match stored {
            Ok(()) => {
                self.checkpoint = Arc::new(self.head.clone());
                self.applied.clear();
                self.published.store(self.checkpoint.clone());
                for Done { answer, room } in done.drain(..) {
                    room.answer(answer);
                }
                self.rooms.wake(topics);
                topics.clear();
                self.rooms.ring();
                if let Some(store) = &mut self.store {
                    store.compaction.after_commit(&mut store.folder, &self.head);
                }
            }
            Err(text) => {
                self.checkpoint = self.published.load_full();
                self.head = State::clone(&self.checkpoint);
                self.applied.clear();
                topics.clear();
                for Done { answer, room } in done.drain(..) {
                    room.answer(Answer { outcome: Err(WriteError::ReadOnly(text.clone())), ..answer });
                }
                self.rooms.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compaction::{RETRY, Thread};
    use super::super::tests::registration;
    use tokio::sync::oneshot;

    use super::*;
    use crate::state::command::{SetMode, TxnOp};
    use crate::storage::disk::RealDisk;

    fn kv(verb: &str, key: &str, index: u64) -> TxnOp {
        let (verb, key) = (verb.to_owned(), key.to_owned());
        TxnOp::Kv { verb, key, value: "v".into(), flags: 0, index, session: String::new() }
    }

    /// Commands that fail half-way, between others in one batch: as if they had never been, here and on disk.
    #[test]
    fn a_command_that_fails_half_way_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, head) = Folder::open(Arc::new(RealDisk), dir.path()).unwrap();
        let published = Arc::new(ArcSwap::from_pointee(head));
        let compaction = Compaction::new(u64::MAX, false, RETRY, Box::new(Thread::default()));
        let store = Store::new(folder, compaction, Refusal::default(), Arc::default());
        let mut writer = Writer::new(published.clone(), Arc::default(), Some(store));
        let mut expected = State::default();
        for batch in 0..3 {
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
                writer.take(Request { command, reply, room: Arc::default() });
            }
            writer.commit();
        }
        let image = |state: &State| state.records().map(|r| format!("{r:?}")).collect::<Vec<_>>();
        assert!(expected.node("torn").is_none() && expected.node("n2").is_some());
        assert_eq!(image(&published.load()), image(&expected));
        drop(writer);
        let (_folder, restored) = Folder::open(Arc::new(RealDisk), dir.path()).unwrap();
        assert_eq!(image(&restored), image(&expected));
    }
}
