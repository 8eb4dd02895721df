//! The durable log and its snapshots in one folder.
//!
//! Files: `lock` (held while an agent runs), `<n>.log` (commands), `<n>.snapshot` (the state before `<n>.log`).
//! Both are sequences of frames, see [`frame`]; what is synced together is one frame of the log, so that it is there
//! whole or not at all. A start takes the newest whole snapshot and replays the logs from its number on. The last log
//! may end in a torn frame, which is cut (and kept beside it); any other damage refuses the start, since acknowledged
//! writes are missing.
//!
//! All of it stands on what [`disk`] promises and no more. So: nothing counts before its sync succeeded; after one that
//! failed the bytes are written anew; a new name is synced before anything relies on it; what a start has read is made
//! durable before anybody sees it.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::{Command, State};

mod decode;
pub mod disk;
pub mod frame;
mod names;
mod recover;
mod snapshot;

use disk::{Disk, DiskFile};
use recover::{Last, Recovered, Torn, recover};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use recover::{read_snapshot, replay};
pub use snapshot::SnapshotTicket;

/// One entry of the log: the command, when it was applied and the index it led to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry<C = Command> {
    pub index: u64,
    pub at: u64,
    pub command: C,
}

/// An open folder, positioned at the end of its last log.
#[derive(Debug)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _lock: Box<dyn Any + Send>,
    /// `None` while it could not be begun yet.
    log: Option<Box<dyn DiskFile>>,
    number: u64,
    /// Up to here the log is known to be whole and on disk.
    length: u64,
    /// Bytes beyond `length` may exist because a write failed half-way.
    dirty: bool,
    /// There are files that a snapshot should have replaced.
    replaced: bool,
    refusal: Option<io::Error>,
}

impl Folder {
    /// Opens or creates the folder and rebuilds the state. A full disk is no reason not to.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Folder, State), Error> {
        make_folder(&*disk, dir)?;
        let lock = dir.join("lock");
        let lock = disk.lock(&lock).map_err(|e| storage("lock", &lock, e))?;
        let lock = lock.ok_or_else(|| Error::FolderInUse(dir.to_owned()))?;
        let mut recovered = recover(&*disk, dir)?;
        let state = std::mem::take(&mut recovered.state);
        let (log, refusal) = settle(&*disk, dir, &recovered)?;
        let Recovered { number, replaced, ref last, .. } = recovered;
        let length = last.as_ref().filter(|last| last.number == number).map_or(0, Last::end);
        let (dir, dirty) = (dir.to_owned(), refusal.is_some());
        Ok((Folder { disk, dir, _lock: lock, log, number, length, dirty, replaced, refusal }, state))
    }

    /// Why the disk refused what a start has to write, if it did: it is read-only until it takes writes.
    pub fn refusal(&mut self) -> Option<io::Error> {
        self.refusal.take()
    }

    /// Bytes in the current log.
    pub fn log_length(&self) -> u64 {
        self.length
    }

    /// Whether a snapshot is wanted for what a start found, whatever the log's length.
    pub fn has_replaced_files(&self) -> bool {
        self.replaced
    }

    /// Appends a frame and waits until it is on disk. On an error nothing of it counts; the next call writes at the
    /// same place.
    pub fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = self.length;
        let log = self.repaired()?;
        let stored = log.write_at(frame, length).and_then(|()| log.sync());
        if stored.is_ok() {
            self.length += frame.len() as u64;
            return Ok(());
        }
        // Its writers are told that it is not stored, so no later start shall find it: cut at once, and surely by
        // `repaired` before anything else is written.
        if let Err(error) = log.set_len(length) {
            tracing::debug!(%error, "cannot cut what was not stored yet");
        }
        self.dirty = true;
        stored
    }

    /// Whether the disk would take `bytes` bytes now; leaves nothing behind.
    pub fn probe(&mut self, bytes: usize) -> io::Result<()> {
        let length = self.length;
        let log = self.repaired()?;
        // zeros are no frame, whatever of them is found later
        let taken = log.write_at(&vec![0; bytes], length).and_then(|()| log.sync());
        self.dirty = true;
        taken?;
        self.repaired().map(drop)
    }

    /// The log, with nothing behind its whole length.
    fn repaired(&mut self) -> io::Result<&dyn DiskFile> {
        if self.log.is_none() {
            self.log = Some(begin(&*self.disk, &self.dir, self.number)?);
        }
        let Some(log) = self.log.as_deref() else { return Err(io::Error::other("no log")) };
        if self.dirty {
            wipe(log, self.length)?;
            self.dirty = false;
        }
        Ok(log)
    }

    /// Begins a new log. The caller then writes the snapshot of the state at this very point with the ticket,
    /// on any thread; until that is done the older files stay. On an error the old log is still the one.
    pub fn rotate(&mut self) -> io::Result<SnapshotTicket> {
        self.repaired()?;
        // an empty log's beginning is this very point already
        if self.length > 0 {
            let number = self.number + 1;
            self.log = Some(begin(&*self.disk, &self.dir, number)?);
            self.number = number;
            self.length = 0;
        }
        Ok(SnapshotTicket { disk: self.disk.clone(), dir: self.dir.clone(), number: self.number })
    }
}

/// Begins an empty log. It is made under another name and moved, so that there is never a moment without it, and so that
/// trying again makes the entry anew.
fn begin(disk: &dyn Disk, dir: &Path, number: u64) -> io::Result<Box<dyn DiskFile>> {
    let place = names::log(dir, number);
    let beside = temporary(&place);
    let log = disk.create(&beside)?;
    log.sync()?;
    disk.rename(&beside, &place)?;
    disk.sync_folder(dir)?;
    Ok(log)
}

/// Makes sure that no frame begins at `length`. Cutting alone is not enough: if the sync after it failed once, cutting to
/// the length that the file seems to have already brings nothing to disk.
fn wipe(log: &dyn DiskFile, length: u64) -> io::Result<()> {
    log.write_at(&[0; frame::HEADER], length)?;
    log.sync()?;
    log.set_len(length)?;
    log.sync()
}

fn temporary(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn storage(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage { action, path: path.to_owned(), source }
}

/// Makes the folder and those above it that are missing, each entry on disk before anything is put below it. Entries that
/// are there are synced too: a start before this one may have ended between the two.
fn make_folder(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let all: Vec<&Path> = dir.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    for path in all.into_iter().rev() {
        let above = match path.parent() {
            None => continue,
            Some(above) if above.as_os_str().is_empty() => Path::new("."),
            Some(above) => above,
        };
        let new = !disk.is_folder(path);
        if new {
            disk.make_folder(path).map_err(|e| storage("create", path, e))?;
        }
        match disk.sync_folder(above) {
            // somebody else's folder, on a file system that cannot or need not
            Err(error) if !new && cannot_sync(&error) => {}
            Err(error) if new => {
                if let Err(error) = disk.remove_folder(path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a folder that may not be durable");
                }
                return Err(storage("sync", above, error));
            }
            other => other.map_err(|e| storage("sync", above, e))?,
        }
    }
    Ok(())
}

fn cannot_sync(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

/// The log to go on with, or `None` if it is still to be begun; and what a full disk refused.
type Settled = (Option<Box<dyn DiskFile>>, Option<io::Error>);

/// Makes durable what was read and cuts what is torn, so that whoever sees the state can rely on it.
fn settle(disk: &dyn Disk, dir: &Path, recovered: &Recovered) -> Result<Settled, Error> {
    for path in &recovered.temporary {
        if let Err(error) = disk.remove(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
        }
    }
    for torn in &recovered.torn {
        keep(disk, dir, torn);
    }
    let mut settled = None;
    if let Some(last) = &recovered.last {
        let done =
            settle_last(disk, dir, last).map_err(|e| storage("sync", &names::log(dir, last.number), e))?;
        settled = Some(done).filter(|_| last.number == recovered.number);
    }
    Ok(match settled {
        Some((log, refusal)) => (Some(log), refusal),
        // Also if it is there: what a refused write left of it on disk may be more than can be seen.
        None => match begin(disk, dir, recovered.number) {
            Ok(log) => (Some(log), None),
            Err(error) => (None, Some(error)),
        },
    })
}

fn settle_last(
    disk: &dyn Disk,
    dir: &Path,
    last: &Last,
) -> io::Result<(Box<dyn DiskFile>, Option<io::Error>)> {
    let log = disk.open(&names::log(dir, last.number))?;
    log.set_len(last.end())?;
    // Written anew rather than only synced: a sync that failed in the process before may have left pages that look clean
    // and are on no disk.
    match log.write_at(&last.frame, last.offset).and_then(|()| wipe(&*log, last.end())) {
        Ok(()) => Ok((log, None)),
        // what can be done is done, and reads are served
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            log.set_len(last.end())?;
            log.sync()?;
            Ok((log, Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// Puts the torn end of a log beside it. It was never acknowledged, so failing to keep it is no reason not to start.
fn keep(disk: &dyn Disk, dir: &Path, torn: &Torn) {
    let kept = names::cut(dir, torn.number, torn.at);
    tracing::warn!(
        path = %names::log(dir, torn.number).display(), at = torn.at, bytes = torn.tail.len(), kept = %kept.display(),
        "the log ends in a torn record: cut there"
    );
    let written = disk.create(&kept).and_then(|file| file.write_at(&torn.tail, 0));
    if let Err(error) = written.or_else(|error| disk.remove(&kept).and(Err(error))) {
        tracing::warn!(path = %kept.display(), %error, "cannot keep what was cut");
    }
}
