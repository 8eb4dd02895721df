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
        let deadline = tokio::time::Instant::now() + wait;
        let waiter = self.watches.subscribe(interest);
        loop {
            let woken = waiter.woken();
            let state = self.state();
            if index_of(&state) > after || self.watches.closed() {
                return state;
            }
            drop(state);
            if tokio::time::timeout_at(deadline, woken).await.is_err() {
                return self.state();
            }
        }
    }

    /// How many queries wait now.
    pub fn waiting(&self) -> usize {
        self.watches.len()
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
    head: State,
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
        let at = now();
        let before = self.head.clone();
        let Applied { outcome, changed, topics: concerned } = self.head.apply(&request.command, at);
        let mut result = outcome.map_err(WriteError::from);
        if changed && self.disk.is_some() {
            let whole = frames.len();
            let entry = Entry { index: self.head.index(), at, command: &request.command };
            if let Err(error) = frame::encode(frames, &entry) {
                frames.truncate(whole);
                self.head = before;
                result = Err(WriteError::ReadOnly(error.to_string()));
            }
        }
        if result.is_ok() {
            topics.extend(concerned);
        }
        done.push(Done { reply: request.reply, result: result.map(|outcome| Written { outcome }) });
    }

    fn commit(&mut self, frames: &[u8], topics: &mut Vec<Topic>, done: &mut Vec<Done>) {
        let stored = match &mut self.disk {
            Some(disk) if !frames.is_empty() => disk.append(frames),
            _ => Ok(()),
        };
        match stored {
            Ok(()) => {
                self.published.store(Arc::new(self.head.clone()));
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
                self.head = State::clone(&self.published.load());
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
    use crate::state::command::SetMode;

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
        let mut writer =
            Writer { head, published: published.clone(), watches: Arc::default(), disk: Some(disk) };
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
}
