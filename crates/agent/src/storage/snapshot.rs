//! Writing a snapshot beside the running log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::{frame, names, temporary};
use crate::state::State;

/// How much is written at a time.
const CHUNK: usize = 1 << 20;

/// The right to write the snapshot with this number: of the state at the very point where the log with the same
/// number began.
#[derive(Debug)]
pub struct SnapshotTicket {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) number: u64,
}

impl SnapshotTicket {
    /// Writes the snapshot beside its place, syncs it, moves it in, syncs the folder and only then removes what it
    /// replaces. Gives its size in bytes. On an error everything that was there is still there.
    pub fn write(self, state: &State) -> io::Result<u64> {
        let place = names::snapshot(&self.dir, self.number);
        let beside = temporary(&place);
        let written = self.fill(&beside, state).inspect_err(|_| {
            // it may be large, on a disk that is full
            if let Err(error) = self.disk.remove(&beside) {
                tracing::warn!(path = %beside.display(), %error, "cannot remove an unfinished snapshot");
            }
        })?;
        self.disk.rename(&beside, &place)?;
        self.disk.sync_folder(&self.dir)?;
        remove_before(&*self.disk, &self.dir, self.number);
        Ok(written)
    }

    fn fill(&self, path: &Path, state: &State) -> io::Result<u64> {
        let file = self.disk.create(path)?;
        let mut written = 0;
        let mut buffer = Vec::with_capacity(CHUNK + CHUNK / 8);
        for record in state.records() {
            frame::encode(&mut buffer, &record)?;
            if buffer.len() >= CHUNK {
                file.write_at(&buffer, written)?;
                written += buffer.len() as u64;
                buffer.clear();
            }
        }
        file.write_at(&buffer, written)?;
        file.sync()?;
        Ok(written + buffer.len() as u64)
    }
}

/// Removes everything with a lower number: what a durable snapshot replaces.
fn remove_before(disk: &dyn Disk, dir: &Path, number: u64) {
    let listed = match disk.list(dir) {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "cannot look for files that a snapshot replaces");
            return;
        }
    };
    for name in listed {
        if names::parse(&name).is_none_or(|(n, _)| n >= number) {
            continue;
        }
        let path = dir.join(name);
        if let Err(error) = disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file that a snapshot replaces");
        }
    }
}
