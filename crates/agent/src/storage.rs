//! The durable log and its snapshots in one folder.
//!
//! Files: `lock` (held while an agent runs), `<n>.log` (commands), `<n>.snapshot` (the state before `<n>.log`).
//! Both are sequences of frames, see [`frame`]. A start takes the newest whole snapshot and replays the logs
//! from its number on. A log that ends in a torn or damaged frame is cut there if it is the last one (what was
//! cut is kept beside it); damage in an earlier one refuses the start, since acknowledged writes are missing.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::image::Record;
use crate::state::{Command, State};

pub mod frame;

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
    dir: PathBuf,
    _lock: File,
    log: File,
    log_number: u64,
    /// Up to here the log is known to be whole and on disk.
    length: u64,
    /// Bytes beyond `length` may exist because a write failed half-way.
    dirty: bool,
}

impl Folder {
    /// Opens or creates the folder and rebuilds the state.
    pub fn open(dir: &Path) -> Result<(Folder, State), Error> {
        std::fs::create_dir_all(dir).map_err(|e| storage("create", dir, e))?;
        let lock = take_lock(dir)?;
        let files = Files::list(dir)?;
        let mut state = State::default();
        let mut first = 0;
        for number in files.snapshots.iter().rev() {
            let path = snapshot_path(dir, *number);
            match read_snapshot(&path)? {
                Some(whole) => {
                    state = whole;
                    first = *number;
                    break;
                }
                None => {
                    tracing::warn!(path = %path.display(), "snapshot is not whole, taking the one before")
                }
            }
        }
        let logs: Vec<u64> = files.logs.iter().copied().filter(|n| *n >= first).collect();
        no_gap(dir, first, &logs)?;
        let mut length = 0;
        for (at, number) in logs.iter().enumerate() {
            let last = at + 1 == logs.len();
            length = replay(&log_path(dir, *number), last, &mut state)?;
        }
        let log_number = logs.last().copied().unwrap_or(first);
        let path = log_path(dir, log_number);
        let log = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| storage("open", &path, e))?;
        sync_folder(dir)?;
        let folder = Folder { dir: dir.to_owned(), _lock: lock, log, log_number, length, dirty: false };
        folder.remove_before(first);
        Ok((folder, state))
    }

    /// Bytes in the current log.
    pub fn log_length(&self) -> u64 {
        self.length
    }

    /// Appends frames and waits until they are on disk. On an error nothing of them counts; the next call
    /// tries again from the same place.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.log.set_len(self.length)?;
            self.log.sync_data()?;
            self.dirty = false;
        }
        self.dirty = true;
        self.log.write_all_at(frames, self.length)?;
        self.log.sync_data()?;
        self.dirty = false;
        self.length += frames.len() as u64;
        Ok(())
    }

    /// Begins a new log. The caller then writes the snapshot of the state at this very point with the ticket,
    /// on any thread; until that is done the older files stay.
    pub fn rotate(&mut self) -> io::Result<SnapshotTicket> {
        let number = self.log_number + 1;
        let log = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(log_path(&self.dir, number))?;
        log.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        self.log = log;
        self.log_number = number;
        self.length = 0;
        self.dirty = false;
        Ok(SnapshotTicket { dir: self.dir.clone(), number })
    }

    /// Puts another file in the log's place, to see what a refusing disk does.
    #[cfg(test)]
    pub(crate) fn swap_log(&mut self, log: File) -> File {
        std::mem::replace(&mut self.log, log)
    }

    fn remove_before(&self, number: u64) {
        remove_before(&self.dir, number);
    }
}

/// The right to write snapshot `number`.
#[derive(Debug)]
pub struct SnapshotTicket {
    dir: PathBuf,
    number: u64,
}

impl SnapshotTicket {
    /// Writes the snapshot beside its place, syncs it, moves it in and removes what it replaces.
    pub fn write(self, state: &State) -> io::Result<u64> {
        let temporary = self.dir.join(format!("{:010}.snapshot.new", self.number));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        let mut buffer = Vec::new();
        let mut written = 0;
        for record in state.records() {
            buffer.clear();
            frame::encode(&mut buffer, &record)?;
            written += buffer.len() as u64;
            out.write_all(&buffer)?;
        }
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&temporary, snapshot_path(&self.dir, self.number))?;
        File::open(&self.dir)?.sync_all()?;
        remove_before(&self.dir, self.number);
        Ok(written)
    }
}

fn remove_before(dir: &Path, number: u64) {
    let Ok(files) = Files::list(dir) else { return };
    let old = files.logs.iter().filter(|n| **n < number).map(|n| log_path(dir, *n));
    let older = files.snapshots.iter().filter(|n| **n < number).map(|n| snapshot_path(dir, *n));
    for path in old.chain(older) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file that a snapshot replaces");
        }
    }
}

struct Files {
    logs: Vec<u64>,
    snapshots: Vec<u64>,
}

impl Files {
    fn list(dir: &Path) -> Result<Files, Error> {
        let mut files = Files { logs: Vec::new(), snapshots: Vec::new() };
        for entry in std::fs::read_dir(dir).map_err(|e| storage("list", dir, e))? {
            let name = entry.map_err(|e| storage("list", dir, e))?.file_name();
            let Some((number, kind)) = name.to_str().and_then(|n| n.split_once('.')) else { continue };
            let Ok(number) = number.parse() else { continue };
            match kind {
                "log" => files.logs.push(number),
                "snapshot" => files.snapshots.push(number),
                _ => {}
            }
        }
        files.logs.sort_unstable();
        files.snapshots.sort_unstable();
        Ok(files)
    }
}

fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

fn snapshot_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.snapshot"))
}

fn storage(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage { action, path: path.to_owned(), source }
}

fn sync_folder(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| storage("sync", dir, e))
}

/// The logs must go on from the snapshot without a gap: otherwise what a lost or damaged file held would silently be missing,
/// in the worst case everything.
fn no_gap(dir: &Path, first: u64, logs: &[u64]) -> Result<(), Error> {
    // A folder that was never used has none; a snapshot is only ever written after its log was begun.
    if logs.is_empty() && first == 0 {
        return Ok(());
    }
    let whole = (first..).zip(logs).all(|(wanted, found)| wanted == *found);
    if !logs.is_empty() && whole {
        return Ok(());
    }
    let missing =
        (first..).zip(logs).find(|(wanted, found)| wanted != *found).map_or(first, |(wanted, _)| wanted);
    Err(Error::Missing { path: log_path(dir, missing) })
}

fn take_lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| storage("open", &path, e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::FolderInUse(dir.to_owned())),
        Err(error) => Err(storage("lock", &path, error.into())),
    }
}

/// `None` when the snapshot is not whole.
fn read_snapshot(path: &Path) -> Result<Option<State>, Error> {
    let bytes = std::fs::read(path).map_err(|e| storage("read", path, e))?;
    let mut state = State::default();
    let mut frames = frame::Reader::new(&bytes);
    let mut seen = 0;
    while let Some(payload) = frames.next_frame() {
        match serde_json::from_slice(payload) {
            Ok(Record::End { records }) => return Ok((records == seen).then_some(state)),
            Ok(record) => state.restore(record),
            Err(_) => return Ok(None),
        }
        seen += 1;
    }
    Ok(None)
}

/// Replays one log; gives its whole length. Only the last log may end badly, and is cut then.
fn replay(path: &Path, last: bool, state: &mut State) -> Result<u64, Error> {
    let bytes = std::fs::read(path).map_err(|e| storage("read", path, e))?;
    let mut frames = frame::Reader::new(&bytes);
    let mut whole = 0;
    while let Some(payload) = frames.next_frame() {
        let Ok(entry) = serde_json::from_slice::<Entry>(payload) else { break };
        let applied = state.apply(&entry.command, entry.at);
        if applied.outcome.is_err() || state.index() != entry.index {
            return Err(Error::Diverged { path: path.to_owned(), index: entry.index });
        }
        whole = frames.offset();
    }
    let total = bytes.len() as u64;
    if whole < total {
        if !last {
            return Err(Error::Damaged { path: path.to_owned(), offset: whole });
        }
        cut(path, whole, total)?;
    }
    Ok(whole)
}

fn cut(path: &Path, whole: u64, total: u64) -> Result<(), Error> {
    let kept = path.with_extension(format!("log-cut-at-{whole}"));
    tracing::warn!(
        path = %path.display(), at = whole, bytes = total - whole, kept = %kept.display(),
        "the log ends in a torn or damaged record: cut there"
    );
    let work = || -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(whole))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        std::fs::write(&kept, &tail)?;
        file.set_len(whole)?;
        file.sync_all()
    };
    work().map_err(|e| storage("cut", path, e))
}
