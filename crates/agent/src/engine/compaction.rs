//! When a snapshot is taken, and that it is written beside the writer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::state::State;
use crate::storage::Folder;

/// After a failure the next attempt is not before this.
pub(super) const RETRY: Duration = Duration::from_secs(30);

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Runs one job at a time while the writer goes on.
pub(super) trait Beside: Send {
    fn busy(&self) -> bool;
    fn run(&mut self, job: Job) -> io::Result<()>;
    /// Waits for the job that runs.
    fn finish(&mut self);
}

pub(super) struct Compaction {
    /// Bytes of log after which a snapshot is taken.
    after: u64,
    retry: Duration,
    /// A snapshot is due whatever the log's length: one failed, or a start found files that one should have replaced.
    /// Also set while one is being written.
    owed: Arc<AtomicBool>,
    tried: Option<Instant>,
    beside: Box<dyn Beside>,
}

impl Compaction {
    pub fn new(after: u64, owed: bool, retry: Duration, beside: Box<dyn Beside>) -> Compaction {
        Compaction { after, retry, owed: Arc::new(AtomicBool::new(owed)), tried: None, beside }
    }

    /// `state` is what the log leads to.
    pub fn after_commit(&mut self, folder: &mut Folder, state: &State) {
        let owed = self.owed.load(Ordering::Relaxed);
        if (!owed && folder.log_length() < self.after) || self.beside.busy() {
            return;
        }
        if owed && self.tried.is_some_and(|at| at.elapsed() < self.retry) {
            return;
        }
        self.tried = Some(Instant::now());
        self.owed.store(true, Ordering::Relaxed);
        if let Err(error) = self.start(folder, state) {
            tracing::warn!(%error, "cannot begin a snapshot; going on with the log");
        }
    }

    fn start(&mut self, folder: &mut Folder, state: &State) -> io::Result<()> {
        let ticket = folder.rotate()?;
        let (state, owed) = (state.clone(), self.owed.clone());
        self.beside.run(Box::new(move || match ticket.write(&state) {
            Ok(bytes) => {
                owed.store(false, Ordering::Relaxed);
                tracing::info!(bytes, index = state.index(), "snapshot written");
            }
            Err(error) => tracing::warn!(%error, "cannot write a snapshot; the logs stay"),
        }))
    }

    pub fn finish(&mut self) {
        self.beside.finish();
    }
}

/// A thread per snapshot.
#[derive(Default)]
pub(super) struct Thread(Option<JoinHandle<()>>);

impl Beside for Thread {
    fn busy(&self) -> bool {
        self.0.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn run(&mut self, job: Job) -> io::Result<()> {
        self.finish();
        self.0 = Some(std::thread::Builder::new().name("agent-snapshot".to_owned()).spawn(job)?);
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("the agent's snapshot thread ended badly; the logs stay");
        }
    }
}
