//! The writer on a disk that loses, tears and refuses, with the process or the machine ending at any operation.
//!
//! Promised, and checked at every start: the state is that of the last acknowledged write, or that with one batch on
//! top which was not acknowledged, whole; what a start has shown stays; a start never refuses what a crash left behind;
//! a disk that takes writes again makes the store writable again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Request;
use super::compaction::{Beside, Compaction, Job};
use super::writer::{Refusal, Store, Writer};
use crate::error::WriteError;
use crate::state::State;
use crate::storage::Folder;

mod commands;
mod disk;

use disk::{End, Lie, Machine};

/// Seeds of one run; `PLINTH_SIMULATION_SEEDS` changes it. The nightly task takes 10,000.
const SEEDS: u64 = 3_000;
/// Bytes of log after which a snapshot is due: small, so that a few commands do.
const COMPACT_AFTER: u64 = 3_000;
const DIR: &str = "/var/agent";

/// Snapshot jobs wait until the simulation lets them run.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Option<Job>>>);

impl Beside for Held {
    fn busy(&self) -> bool {
        self.0.lock().is_some()
    }

    fn run(&mut self, job: Job) -> std::io::Result<()> {
        *self.0.lock() = Some(job);
        Ok(())
    }

    fn finish(&mut self) {}
}

/// One life of the process.
struct Process {
    writer: Writer,
    published: Arc<ArcSwap<State>>,
    refusal: Refusal,
    jobs: Held,
}

struct Simulation {
    random: Rng,
    machine: Machine,
    /// States a start may find; the first is what was acknowledged (or shown by a start) last.
    allowed: Vec<String>,
    /// Highest index anybody has seen.
    seen: u64,
    now: u64,
    troubled: bool,
}

type Checked<T> = Result<T, String>;

fn image(state: &State) -> String {
    let mut text = String::new();
    for record in state.records() {
        text += &serde_json::to_string(&record).unwrap();
        text.push('\n');
    }
    text
}

/// One seed. The error says what promise was broken.
fn run(seed: u64, lie: Lie) -> Checked<()> {
    let mut simulation = Simulation {
        random: Rng::with_seed(seed),
        machine: Machine::new(seed, lie),
        allowed: vec![image(&State::default())],
        seen: 0,
        now: 1_000_000,
        troubled: false,
    };
    for _ in 0..simulation.random.usize(1..5) {
        simulation.life()?;
    }
    simulation.last_life()
}

impl Simulation {
    fn mend(&mut self) {
        self.machine.mend();
        self.troubled = false;
    }

    /// From a start to an end, with whatever happens in between.
    fn life(&mut self) -> Checked<()> {
        let disk = self.machine.boot();
        if self.random.u8(0..4) == 0 {
            let end = self.an_end();
            self.machine.burn(self.random.u32(0..12), end);
        }
        let Some(mut process) = self.start(disk)? else {
            self.mend();
            return Ok(());
        };
        for _ in 0..self.random.usize(1..25) {
            self.step(&mut process)?;
            if self.machine.ended() {
                return Ok(());
            }
        }
        let end = self.an_end();
        self.machine.end(end);
        Ok(())
    }

    fn an_end(&mut self) -> End {
        if self.random.bool() { End::Kill } else { End::PowerCut }
    }

    /// `None` when it ended on the way, or the disk refused.
    fn start(&mut self, disk: Arc<dyn crate::storage::disk::Disk>) -> Checked<Option<Process>> {
        let (folder, state) = match Folder::open(disk, Path::new(DIR)) {
            Ok(opened) => opened,
            Err(_) if self.machine.ended() || self.troubled => return Ok(None),
            Err(error) => return Err(format!("refused to start: {error}; {}", self.machine.files())),
        };
        if self.machine.ended() {
            return Ok(None);
        }
        let found = image(&state);
        if !self.allowed.contains(&found) {
            return Err(format!("found\n{found}\nallowed {:#?}\n{}", self.allowed, self.machine.files()));
        }
        let refused_before = std::mem::take(&mut self.allowed);
        self.shown(&state, found)?;
        let published = Arc::new(ArcSwap::from_pointee(state));
        let (refusal, jobs): (Refusal, _) = (Arc::new(ArcSwapOption::empty()), Held::default());
        let owed = folder.has_replaced_files();
        let compaction = Compaction::new(COMPACT_AFTER, owed, Duration::ZERO, Box::new(jobs.clone()));
        let store = Store::new(folder, compaction, refusal.clone(), Arc::default());
        if refusal.load().is_some() {
            // what could not be cut yet may still turn up
            self.allowed.extend(refused_before);
        }
        let writer = Writer::new(published.clone(), Arc::default(), Some(store));
        Ok(Some(Process { writer, published, refusal, jobs }))
    }

    /// Readers have seen this.
    fn shown(&mut self, state: &State, image: String) -> Checked<()> {
        if state.index() < self.seen {
            return Err(format!("the index went back from {} to {}", self.seen, state.index()));
        }
        self.seen = state.index();
        self.allowed = vec![image];
        Ok(())
    }

    fn step(&mut self, process: &mut Process) -> Checked<()> {
        if self.random.u8(0..12) == 0 {
            let end = self.an_end();
            self.machine.burn(self.random.u32(0..10), end);
        }
        match self.random.u8(0..16) {
            0 => {
                self.machine.fill(self.random.usize(0..3000));
                self.troubled = true;
            }
            1 => {
                self.machine.fail(self.random.u8(5..60));
                self.troubled = true;
            }
            2 => self.mend(),
            3 | 4 => {
                let job = process.jobs.0.lock().take();
                if let Some(job) = job {
                    job();
                }
            }
            5 => process.writer.ask(),
            _ => self.write(process)?,
        }
        Ok(())
    }

    /// One group commit.
    fn write(&mut self, process: &mut Process) -> Checked<()> {
        let mut answers = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let (reply, answer) = oneshot::channel();
            self.now += self.random.u64(0..2000);
            let command = commands::command(&mut self.random);
            process.writer.take_at(Request { command, reply, room: Arc::default() }, self.now);
            answers.push(answer);
        }
        let attempted = image(process.writer.head());
        process.writer.commit();
        self.machine.say(|| format!("committed, refused: {:?}", process.refusal.load()));
        let refused =
            answers.iter_mut().any(|a| matches!(a.try_recv().unwrap(), Err(WriteError::ReadOnly(_))));
        if refused {
            if process.refusal.load().is_none() {
                return Err("a refusal that nobody is told of".to_owned());
            }
            if !self.troubled && !self.machine.ended() {
                return Err(format!("refused although the disk takes writes; {}", self.machine.files()));
            }
            self.allowed.push(attempted);
            return Ok(());
        }
        // Without a change nothing was written, so what was refused before may still turn up.
        if attempted == self.allowed[0] {
            return Ok(());
        }
        let state = process.published.load();
        self.shown(&state, attempted)
    }

    /// A disk without trouble: everything that was promised is there, and goes on.
    fn last_life(&mut self) -> Checked<()> {
        self.mend();
        let disk = self.machine.boot();
        let Some(mut process) = self.start(disk)? else { return Err("it ended by itself".to_owned()) };
        self.write(&mut process)?;
        self.machine.end(End::PowerCut);
        let disk = self.machine.boot();
        self.start(disk)?;
        Ok(())
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("PLINTH_SIMULATION_FIRST").unwrap_or(0);
    first..first + number("PLINTH_SIMULATION_SEEDS").unwrap_or(SEEDS)
}

/// Runs seeds on all cores; gives the first that breaks a promise.
fn search(seeds: std::ops::Range<u64>, lie: Lie) -> Option<(u64, String)> {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let found = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().is_some() {
                        return;
                    }
                    if let Err(broken) = run(seed, lie) {
                        found.lock().get_or_insert((seed, broken));
                    }
                }
            });
        }
    });
    found.into_inner()
}

#[test]
fn nothing_promised_is_lost() {
    if let Some((seed, broken)) = search(seeds(), Lie::None) {
        panic!("seed {seed}: {broken}");
    }
}

/// The simulation would notice.
#[test]
fn what_is_left_out_is_noticed() {
    let lies =
        [Lie::NoFileSync, Lie::NoFolderSync, Lie::RenameUnsynced, Lie::OnlySyncedAgain, Lie::ReadIsDurable];
    for lie in lies {
        let found = search(0..10_000, lie);
        let (seed, broken) = found.unwrap_or_else(|| panic!("{lie:?} goes unnoticed"));
        println!("{lie:?}: seed {seed}: {}", broken.lines().next().unwrap_or_default());
    }
}
