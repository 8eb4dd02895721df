//! The operating system's disk, with moods.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use plinth_agent::storage::disk::{Disk, DiskFile, RealDisk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    Fine,
    /// No space left.
    Full,
    /// Everything that writes panics.
    Panics,
}

#[derive(Clone, Debug, Default)]
pub struct Moody(Arc<AtomicU8>);

#[derive(Debug)]
struct File {
    file: Box<dyn DiskFile>,
    disk: Moody,
}

impl Moody {
    pub fn set(&self, mood: Mood) {
        self.0.store(mood as u8, Ordering::SeqCst);
    }

    fn may_write(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            mood if mood == Mood::Full as u8 => Err(io::Error::from_raw_os_error(28)),
            mood if mood == Mood::Panics as u8 => panic!("a fault of the program"),
            _ => Ok(()),
        }
    }

    fn wrap(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File { file: file?, disk: self.clone() }))
    }
}

impl Disk for Moody {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.make_folder(path)
    }

    fn is_folder(&self, path: &Path) -> bool {
        RealDisk.is_folder(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_folder(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        RealDisk.lock(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(folder)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.wrap(RealDisk.open(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.may_write()?;
        self.wrap(RealDisk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_folder(path)
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.may_write()?;
        self.file.write_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
