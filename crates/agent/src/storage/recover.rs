//! Rebuilding the state from what is in the folder. Reads only.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::names::Kind;
use super::{Entry, decode, names, storage};
use crate::error::Error;
use crate::state::State;
use crate::state::image::Record;

/// What was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub state: State,
    /// The log to go on with: the last there is.
    pub number: u64,
    pub last: Option<Last>,
    /// Ends of logs that are torn.
    pub torn: Vec<Torn>,
    /// Unfinished files, of no use to anybody.
    pub temporary: Vec<PathBuf>,
    /// There are files that the snapshot replaces.
    pub replaced: bool,
}

/// The last frame of all, header included. All before it is known to be on disk; of this one it is not, since the process
/// may have ended between writing and syncing.
#[derive(Debug)]
pub(super) struct Last {
    pub number: u64,
    pub offset: u64,
    pub frame: Vec<u8>,
}

impl Last {
    pub fn end(&self) -> u64 {
        self.offset + self.frame.len() as u64
    }
}

#[derive(Debug)]
pub(super) struct Torn {
    pub number: u64,
    pub at: u64,
    pub tail: Vec<u8>,
}

struct Found {
    logs: Vec<u64>,
    snapshots: Vec<u64>,
    temporary: Vec<PathBuf>,
}

pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, Error> {
    let found = list(disk, dir)?;
    let (first, state) = newest_snapshot(disk, dir, &found.snapshots)?;
    let logs: Vec<u64> = found.logs.iter().copied().filter(|n| *n >= first).collect();
    no_gap(dir, first, &logs)?;
    let replaced = found.logs.iter().chain(&found.snapshots).any(|n| *n < first);
    let mut recovered = Recovered {
        state,
        number: logs.last().copied().unwrap_or(first),
        last: None,
        torn: Vec::new(),
        temporary: found.temporary,
        replaced,
    };
    for number in logs {
        let path = names::log(dir, number);
        let bytes = disk.read(&path).map_err(|e| storage("read", &path, e))?;
        recovered.take_log(dir, number, &path, &bytes)?;
    }
    Ok(recovered)
}

impl Recovered {
    fn take_log(&mut self, dir: &Path, number: u64, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let replayed = replay(path, bytes, &mut self.state)?;
        if let Some(last) = replayed.last {
            // A log is only written after everything in those before it was on disk.
            if let Some(torn) = self.torn.first() {
                return Err(Error::Damaged { path: names::log(dir, torn.number), offset: torn.at });
            }
            let frame = bytes[last as usize..replayed.whole as usize].to_vec();
            self.last = Some(Last { number, offset: last, frame });
        }
        if replayed.whole < bytes.len() as u64 {
            let tail = &bytes[replayed.whole as usize..];
            // zeros were never anybody's write
            if tail.iter().any(|byte| *byte != 0) {
                self.torn.push(Torn { number, at: replayed.whole, tail: tail.to_vec() });
            }
        }
        Ok(())
    }
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Found, Error> {
    let mut found = Found { logs: Vec::new(), snapshots: Vec::new(), temporary: Vec::new() };
    for name in disk.list(dir).map_err(|e| storage("list", dir, e))? {
        match names::parse(&name) {
            Some((number, Kind::Log)) => found.logs.push(number),
            Some((number, Kind::Snapshot)) => found.snapshots.push(number),
            Some((_, Kind::Temporary)) => found.temporary.push(dir.join(name)),
            Some((_, Kind::Cut)) | None => {}
        }
    }
    found.logs.sort_unstable();
    found.snapshots.sort_unstable();
    Ok(found)
}

/// Its number and the state it holds; number 0 and nothing when there is none.
fn newest_snapshot(disk: &dyn Disk, dir: &Path, numbers: &[u64]) -> Result<(u64, State), Error> {
    for number in numbers.iter().rev() {
        let path = names::snapshot(dir, *number);
        let bytes = disk.read(&path).map_err(|e| storage("read", &path, e))?;
        match read_snapshot(&path, &bytes)? {
            Some(whole) => return Ok((*number, whole)),
            None => tracing::warn!(path = %path.display(), "snapshot is not whole, taking the one before"),
        }
    }
    Ok((0, State::default()))
}

/// The logs must go on from the snapshot without a gap: otherwise what a lost or damaged file held would silently be missing,
/// in the worst case everything.
fn no_gap(dir: &Path, first: u64, logs: &[u64]) -> Result<(), Error> {
    // A folder that was never used has none; a snapshot is only ever written after its log was begun.
    if logs.is_empty() && first == 0 {
        return Ok(());
    }
    let gap = (first..).zip(logs).find(|(wanted, found)| wanted != *found).map(|(wanted, _)| wanted);
    match gap {
        None if !logs.is_empty() => Ok(()),
        missing => Err(Error::Missing { path: names::log(dir, missing.unwrap_or(first)) }),
    }
}

/// `None` when the snapshot is not whole.
pub(crate) fn read_snapshot(path: &Path, bytes: &[u8]) -> Result<Option<State>, Error> {
    let (frames, _) = decode::frames(bytes);
    let (mut state, mut seen, mut whole) = (State::default(), 0, false);
    let record = |payload: &[u8]| serde_json::from_slice::<Record>(payload);
    decode::in_order(&frames, record, |offset, record| {
        match record.map_err(|source| Error::Unreadable { path: path.to_owned(), offset, source })? {
            // nothing comes after it
            Record::End { records } => whole = records == seen,
            record => {
                whole = false;
                state.restore(record);
            }
        }
        seen += 1;
        Ok(())
    })?;
    Ok(whole.then_some(state))
}

/// What [`replay`] found in a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Bytes up to the end of the last whole frame.
    pub whole: u64,
    /// Where the last whole frame begins.
    pub last: Option<u64>,
}

/// Applies one log. It may end in a torn frame; damage before whole frames is refused, since those were written after
/// what is damaged had been acknowledged.
pub(crate) fn replay(path: &Path, bytes: &[u8], state: &mut State) -> Result<Replayed, Error> {
    let (frames, reader) = decode::frames(bytes);
    let entries = |payload: &[u8]| -> Result<Vec<Entry>, _> {
        serde_json::Deserializer::from_slice(payload).into_iter().collect()
    };
    decode::in_order(&frames, entries, |offset, entries| {
        let entries =
            entries.map_err(|source| Error::Unreadable { path: path.to_owned(), offset, source })?;
        for entry in entries {
            let applied = state.apply(&entry.command, entry.at);
            if applied.outcome.is_err() || state.index() != entry.index {
                return Err(Error::Diverged { path: path.to_owned(), index: entry.index });
            }
        }
        Ok(())
    })?;
    if reader.beyond().is_some() {
        return Err(Error::Damaged { path: path.to_owned(), offset: reader.offset() });
    }
    Ok(Replayed { whole: reader.offset(), last: frames.last().map(|(offset, _)| *offset) })
}
