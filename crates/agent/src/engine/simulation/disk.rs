//! A disk that does what disks may do and most never will.
//!
//! It keeps what programs see (the cache) apart from what a power cut leaves (the platter). Between two syncs every
//! change is pending: a power cut keeps any of them, in any combination, writes torn at any byte or sector by sector,
//! with zeros or noise where a file grew without its bytes. A sync that fails does the same and forgets the rest: what
//! was pending is then neither stored nor pending, so syncing once more brings nothing back.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;

use crate::storage::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What a careless program (or a lying disk) would leave out; to see that the simulation notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    /// Files are never synced.
    NoFileSync,
    /// Folders are never synced.
    NoFolderSync,
    /// Files are moved to their place without a sync before.
    RenameUnsynced,
    /// After a failed sync the same bytes are only synced again.
    OnlySyncedAgain,
    /// What a start has read is taken as durable.
    ReadIsDurable,
}

/// How the machine ends when the fuse has burnt down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process alone: the cache stays.
    Kill,
    /// The machine: only the platter stays, and some of what was pending.
    PowerCut,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    platter: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    File(usize),
    Folder,
}

#[derive(Clone, Debug)]
enum Entry {
    Set(String, Item),
    Unset(String),
    Move { from: String, to: String, item: Item },
}

type Entries = BTreeMap<String, Item>;

#[derive(Debug, Default)]
struct Folder {
    cache: Entries,
    platter: Entries,
    pending: Vec<Entry>,
}

#[derive(Debug)]
struct World {
    random: Rng,
    inodes: Vec<Inode>,
    folders: BTreeMap<PathBuf, Folder>,
    /// Handles of an earlier process are dead.
    process: u64,
    locked: bool,
    /// Operations until the end.
    fuse: Option<(u32, End)>,
    ended: Option<End>,
    /// Bytes that fit, while it is nearly full.
    room: Option<usize>,
    /// Of 100 operations so many fail.
    errors: u8,
    lie: Lie,
    /// Prints what happens, to look at one seed: `PLINTH_SIMULATION_TRACE`.
    trace: bool,
}

/// The machine, from outside.
#[derive(Clone, Debug)]
pub struct Machine(Arc<Mutex<World>>);

/// The disk as one process sees it.
#[derive(Debug)]
struct Handle {
    machine: Machine,
    process: u64,
}

#[derive(Debug)]
struct Open {
    handle: Handle,
    inode: usize,
    temporary: bool,
    /// Calls that [`Lie::ReadIsDurable`] leaves out: the write and the sync of a start.
    left_out: Mutex<u8>,
}

impl Machine {
    pub fn new(seed: u64, lie: Lie) -> Machine {
        Machine(Arc::new(Mutex::new(World {
            random: Rng::with_seed(seed ^ 0x5EED),
            inodes: Vec::new(),
            folders: BTreeMap::from([(PathBuf::from("/"), Folder::default())]),
            process: 0,
            locked: false,
            fuse: None,
            ended: None,
            room: None,
            errors: 0,
            lie,
            trace: std::env::var_os("PLINTH_SIMULATION_TRACE").is_some(),
        })))
    }

    /// Starts a process. After a power cut that is a new machine with the old platter.
    pub fn boot(&self) -> Arc<dyn Disk> {
        self.say(|| format!("boot after {:?}", self.0.lock().ended));
        let mut world = self.0.lock();
        if world.ended == Some(End::PowerCut) {
            world.lose_power();
        }
        world.ended = None;
        world.fuse = None;
        world.locked = false;
        world.process += 1;
        Arc::new(Handle { machine: self.clone(), process: world.process })
    }

    pub fn burn(&self, operations: u32, end: End) {
        self.say(|| format!("{end:?} in {operations} operations"));
        self.0.lock().fuse = Some((operations, end));
    }

    pub fn end(&self, end: End) {
        self.0.lock().ended = Some(end);
    }

    pub fn ended(&self) -> bool {
        self.0.lock().ended.is_some()
    }

    pub fn fill(&self, bytes_left: usize) {
        let mut world = self.0.lock();
        world.room = Some(world.used() + bytes_left);
    }

    pub fn fail(&self, of_hundred: u8) {
        self.0.lock().errors = of_hundred;
    }

    pub fn mend(&self) {
        let mut world = self.0.lock();
        world.room = None;
        world.errors = 0;
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        let trace = self.0.lock().trace;
        if trace {
            println!("{}", what());
        }
    }

    /// For messages: files with their length in cache and on the platter.
    pub fn files(&self) -> String {
        let world = self.0.lock();
        let mut text = String::new();
        for (path, folder) in &world.folders {
            for (name, item) in &folder.cache {
                if let Item::File(n) = item {
                    let inode = &world.inodes[*n];
                    text +=
                        &format!("{}/{name} {}/{} ", path.display(), inode.cache.len(), inode.platter.len());
                }
            }
        }
        text
    }
}

impl World {
    fn used(&self) -> usize {
        let files = self.folders.values().flat_map(|f| f.cache.values());
        files.map(|item| if let Item::File(n) = item { self.inodes[*n].cache.len() } else { 0 }).sum()
    }

    /// Burns the fuse; true when this very operation is the last, which may or may not happen.
    fn tick(&mut self) -> bool {
        if let Some((left, end)) = &mut self.fuse {
            if *left == 0 {
                self.ended = Some(*end);
                return true;
            }
            *left -= 1;
        }
        false
    }

    fn refuses(&mut self) -> io::Result<()> {
        if self.errors > 0 && self.random.u8(0..100) < self.errors {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        self.folders.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_entries(&mut self, folder: &Path, entry: Entry) -> io::Result<()> {
        let folder = self.folder(folder)?;
        apply(&mut folder.cache, &entry);
        folder.pending.push(entry);
        Ok(())
    }

    fn lose_power(&mut self) {
        for inode in &mut self.inodes {
            for change in std::mem::take(&mut inode.pending) {
                may_reach(&mut inode.platter, &change, &mut self.random);
            }
            inode.cache.clone_from(&inode.platter);
        }
        let in_order = self.random.bool();
        for folder in self.folders.values_mut() {
            let kept = self.random.usize(0..=folder.pending.len());
            for (n, entry) in std::mem::take(&mut folder.pending).into_iter().enumerate() {
                if if in_order { n < kept } else { self.random.bool() } {
                    apply(&mut folder.platter, &entry);
                }
            }
            folder.cache.clone_from(&folder.platter);
        }
        let reachable: Vec<PathBuf> = self.folders.keys().filter(|p| self.reaches(p)).cloned().collect();
        self.folders.retain(|path, _| reachable.contains(path));
    }

    fn reaches(&self, path: &Path) -> bool {
        let Some((above, name)) = split(path) else { return true };
        self.folders.get(&above).is_some_and(|f| f.cache.get(&name) == Some(&Item::Folder))
            && self.reaches(&above)
    }
}

fn reach(platter: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => platter.resize(*length, 0),
        Change::Write { offset, bytes } => put(platter, *offset, bytes),
    }
}

/// What one pending change leaves when nobody waited for it.
fn may_reach(platter: &mut Vec<u8>, change: &Change, random: &mut Rng) {
    let (offset, bytes) = match change {
        Change::Length(length) => {
            if random.bool() {
                platter.resize(*length, 0);
            }
            return;
        }
        Change::Write { offset, bytes } => (*offset, bytes),
    };
    match random.u8(0..4) {
        0 => {}
        1 => put(platter, offset, bytes),
        2 => put(platter, offset, &bytes[..random.usize(0..=bytes.len())]),
        _ => {
            let before = platter.len();
            if platter.len() < offset + bytes.len() {
                platter.resize(offset + bytes.len(), 0);
                if random.u8(0..3) == 0 {
                    platter[before..].fill_with(|| random.u8(..));
                }
            }
            for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.bool() {
                    put(platter, offset + n * SECTOR, sector);
                }
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn apply(entries: &mut Entries, entry: &Entry) {
    match entry {
        Entry::Set(name, item) => {
            entries.insert(name.clone(), *item);
        }
        Entry::Unset(name) => {
            entries.remove(name);
        }
        Entry::Move { from, to, item } => {
            if entries.get(from) == Some(item) {
                entries.remove(from);
            }
            entries.insert(to.clone(), *item);
        }
    }
}

fn split(path: &Path) -> Option<(PathBuf, String)> {
    Some((path.parent()?.to_owned(), path.file_name()?.to_str()?.to_owned()))
}

fn parts(path: &Path) -> io::Result<(PathBuf, String)> {
    split(path).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn gone() -> io::Error {
    io::Error::other("the process has ended")
}

impl Handle {
    /// One operation that changes something: `work`, unless the disk refuses; the last one before the end may be seen or not.
    fn operate<T>(&self, what: &str, work: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let done = self.attempt(work);
        self.machine.say(|| format!("  {what}: {:?}", done.as_ref().map(drop)));
        done
    }

    fn attempt<T>(&self, work: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.machine.0.lock();
        self.alive(&world)?;
        let last = world.tick();
        world.refuses()?;
        if last {
            if world.random.bool() {
                work(&mut world)?;
            }
            return Err(gone());
        }
        work(&mut world)
    }

    fn alive(&self, world: &World) -> io::Result<()> {
        if world.ended.is_some() || world.process != self.process { Err(gone()) } else { Ok(()) }
    }

    fn open(&self, inode: usize, path: &Path, opened: bool) -> Box<dyn DiskFile> {
        Box::new(Open {
            handle: Handle { machine: self.machine.clone(), process: self.process },
            inode,
            temporary: path.extension().is_some_and(|e| e == "new"),
            left_out: Mutex::new(if opened { 2 } else { 0 }),
        })
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut world = self.machine.0.lock();
        self.alive(&world)?;
        let (folder, name) = parts(path)?;
        match world.folder(&folder)?.cache.get(&name) {
            Some(Item::File(inode)) => Ok(*inode),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Disk for Handle {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let (above, name) = parts(path)?;
        self.operate("make folder", |world| {
            world.change_entries(&above, Entry::Set(name, Item::Folder))?;
            world.folders.insert(path.to_owned(), Folder::default());
            Ok(())
        })
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.machine.0.lock().reaches(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let (above, name) = parts(path)?;
        self.operate("remove folder", |world| {
            world.change_entries(&above, Entry::Unset(name))?;
            world.folders.remove(path);
            Ok(())
        })
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Any + Send>>> {
        let mut world = self.machine.0.lock();
        self.alive(&world)?;
        Ok((!std::mem::replace(&mut world.locked, true)).then(|| Box::new(()) as Box<dyn Any + Send>))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut world = self.machine.0.lock();
        self.alive(&world)?;
        Ok(world.folder(folder)?.cache.keys().cloned().collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = self.find(path)?;
        Ok(self.machine.0.lock().inodes[inode].cache.clone())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.find(path)?;
        Ok(Handle::open(self, inode, path, true))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (folder, name) = parts(path)?;
        let inode = self.operate(&format!("create {name}"), |world| {
            if world.room.is_some_and(|room| world.used() >= room) {
                return Err(io::Error::from_raw_os_error(28));
            }
            let there = world.folder(&folder)?.cache.get(&name).copied();
            if let Some(Item::File(inode)) = there {
                world.inodes[inode].cache.clear();
                world.inodes[inode].pending.push(Change::Length(0));
                return Ok(inode);
            }
            let inode = world.inodes.len();
            world.inodes.push(Inode::default());
            world.change_entries(&folder, Entry::Set(name, Item::File(inode)))?;
            Ok(inode)
        })?;
        Ok(Handle::open(self, inode, path, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let item = Item::File(self.find(from)?);
        let ((folder, from), (_, to)) = (parts(from)?, parts(to)?);
        let what = format!("rename {from} to {to}");
        self.operate(&what, |world| world.change_entries(&folder, Entry::Move { from, to, item }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let (folder, name) = parts(path)?;
        self.operate(&format!("remove {name}"), |world| world.change_entries(&folder, Entry::Unset(name)))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let synced = self.bring_entries(path);
        self.machine.say(|| format!("  sync {}: {synced:?}", path.display()));
        synced
    }
}

impl Handle {
    fn bring_entries(&self, path: &Path) -> io::Result<()> {
        let mut world = self.machine.0.lock();
        self.alive(&world)?;
        if world.tick() {
            return Err(gone());
        }
        if world.lie == Lie::NoFolderSync {
            return Ok(());
        }
        let failed = world.refuses();
        let pending = std::mem::take(&mut world.folder(path)?.pending);
        for entry in pending {
            if failed.is_ok() || world.random.bool() {
                apply(&mut world.folder(path)?.platter, &entry);
            }
        }
        failed
    }
}

impl DiskFile for Open {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        let what = format!("write {} bytes at {offset} of {}", bytes.len(), self.inode);
        self.handle.operate(&what, |world| {
            let lie = world.lie;
            if lie == Lie::ReadIsDurable && leave_out(&self.left_out) {
                return Ok(());
            }
            let used = world.used();
            let room = world.room;
            let invalid = world.random.bool();
            let inode = &mut world.inodes[self.inode];
            if lie == Lie::OnlySyncedAgain && inode.cache.get(offset..offset + bytes.len()) == Some(bytes) {
                return Ok(());
            }
            let grows = (offset + bytes.len()).saturating_sub(inode.cache.len());
            let fits = room.map_or(grows, |room| room.saturating_sub(used).min(grows));
            let written = if invalid || fits == grows { bytes.len() - (grows - fits) } else { 0 };
            let bytes = &bytes[..written];
            put(&mut inode.cache, offset, bytes);
            inode.pending.push(Change::Write { offset, bytes: bytes.to_vec() });
            if fits < grows { Err(io::Error::from_raw_os_error(28)) } else { Ok(()) }
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.handle.operate(&format!("cut {} to {length}", self.inode), |world| {
            let inode = &mut world.inodes[self.inode];
            // the same length is no change: nothing that a later sync would bring to disk
            if inode.cache.len() != length as usize {
                inode.cache.resize(length as usize, 0);
                inode.pending.push(Change::Length(length as usize));
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.bring();
        self.handle
            .machine
            .say(|| format!("  sync {}: {synced:?}; {}", self.inode, self.handle.machine.files()));
        synced
    }
}

impl Open {
    fn bring(&self) -> io::Result<()> {
        let mut guard = self.handle.machine.0.lock();
        let world = &mut *guard;
        self.handle.alive(world)?;
        if world.tick() {
            return Err(gone());
        }
        let left_out = match world.lie {
            Lie::NoFileSync => true,
            Lie::RenameUnsynced => self.temporary,
            Lie::ReadIsDurable => leave_out(&self.left_out),
            _ => false,
        };
        if left_out {
            return Ok(());
        }
        let failed = world.refuses();
        let inode = &mut world.inodes[self.inode];
        let pending = std::mem::take(&mut inode.pending);
        if failed.is_ok() {
            // only what was pending: what an earlier failure dropped stays dropped
            pending.iter().for_each(|change| reach(&mut inode.platter, change));
            return Ok(());
        }
        for change in pending {
            may_reach(&mut inode.platter, &change, &mut world.random);
        }
        if world.random.bool() {
            // some file systems show what is on the platter from then on, others what was written
            let length = inode.cache.len();
            inode.cache.clone_from(&inode.platter);
            inode.cache.resize(length, 0);
        }
        failed
    }
}

fn leave_out(left: &Mutex<u8>) -> bool {
    let mut left = left.lock();
    let now = *left > 0;
    *left = left.saturating_sub(1);
    now
}
