//! Group commit of the agent's log beside redb, fjall and SQLite: 64 writers, one record each at a time, each answered
//! when it is durable. `grouped`: one thread gathers what waits and commits it in one go, as the agent's writer does.
//! `alone`: each record is its own commit, as the crate offers it to 64 threads.
//!
//! `storage-comparison [FOLDER]` for that, `storage-comparison FOLDER INSTANCES` for the time of a start.

mod start;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use plinth_agent::storage::disk::RealDisk;
use plinth_agent::storage::{Folder, frame};

const WRITERS: u64 = 64;
/// Bytes of one value: about what a put of a small configuration value is in the log.
const RECORD: usize = 200;
const RUN: Duration = Duration::from_secs(5);
/// As the agent's.
const BATCH: usize = 1024;

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Record = (u64, Vec<u8>);

trait Store: Send + 'static {
    fn commit(&mut self, records: &[Record]) -> Result<(), Fault>;
}

struct OwnLog(Folder);

impl Store for OwnLog {
    fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        let start = frame::begin(&mut bytes);
        for (key, value) in records {
            frame::push(&mut bytes, &(key, std::str::from_utf8(value)?))?;
        }
        frame::finish(&mut bytes, start);
        Ok(self.0.append(&bytes)?)
    }
}

struct Redb(Arc<redb::Database>);
const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("records");

impl Store for Redb {
    fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        // durability is immediate unless said otherwise
        let write = self.0.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in records {
                table.insert(key, value.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }
}

#[derive(Clone)]
struct Fjall(fjall::Database, fjall::Keyspace);

impl Store for Fjall {
    fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        let mut batch = self.0.batch();
        for (key, value) in records {
            batch.insert(&self.1, key.to_be_bytes(), value.as_slice());
        }
        batch.commit()?;
        Ok(self.0.persist(fjall::PersistMode::SyncData)?)
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(path: &Path) -> Result<Sqlite, Fault> {
        let connection = rusqlite::Connection::open(path.join("records.db"))?;
        connection.busy_timeout(Duration::from_secs(60))?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             CREATE TABLE IF NOT EXISTS records (key INTEGER PRIMARY KEY, value BLOB) STRICT;",
        )?;
        Ok(Sqlite(connection))
    }
}

impl Store for Sqlite {
    fn commit(&mut self, records: &[Record]) -> Result<(), Fault> {
        let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO records (key, value) VALUES (?1, ?2)")?;
            for (key, value) in records {
                insert.execute((*key as i64, value))?;
            }
        }
        Ok(transaction.commit()?)
    }
}

struct Figures {
    records: u64,
    commits: u64,
    /// Of every record, in microseconds, sorted.
    waits: Vec<u64>,
    cpu: Duration,
}

/// Ticks of this process's CPU time, user and system.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Runs the writers; `put` comes back when the record is durable.
fn writers(put: impl Fn(Record) -> Result<(), Fault> + Sync) -> Result<Figures, Fault> {
    let (next, over, all) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let before = cpu();
    std::thread::scope(|scope| {
        let work = || -> Result<(), Fault> {
            let mut waits = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let record = (next.fetch_add(1, Ordering::Relaxed), vec![b'v'; RECORD]);
                let asked = Instant::now();
                put(record)?;
                waits.push(asked.elapsed().as_micros() as u64);
            }
            all.lock().map_err(|_| "a writer panicked")?.append(&mut waits);
            Ok(())
        };
        let threads: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
        std::thread::sleep(RUN);
        over.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writer panicked")?)
    })?;
    let mut waits = all.into_inner().map_err(|_| "a writer panicked")?;
    waits.sort_unstable();
    Ok(Figures { records: waits.len() as u64, commits: 0, waits, cpu: cpu() - before })
}

fn grouped(mut store: impl Store) -> Result<Figures, Fault> {
    type Waiting = (Record, mpsc::SyncSender<()>);
    let (queue, waiting) = mpsc::sync_channel::<Waiting>(4096);
    let committer = std::thread::spawn(move || -> Result<u64, Fault> {
        let mut commits = 0;
        while let Ok(first) = waiting.recv() {
            let mut batch: Vec<Waiting> = vec![first];
            batch.extend(std::iter::from_fn(|| waiting.try_recv().ok()).take(BATCH - 1));
            let (records, answers): (Vec<Record>, Vec<_>) = batch.into_iter().unzip();
            store.commit(&records)?;
            commits += 1;
            answers.iter().try_for_each(|answer| answer.send(()))?;
        }
        Ok(commits)
    });
    let mut figures = writers(|record| {
        let (answer, answered) = mpsc::sync_channel(1);
        queue.send((record, answer))?;
        Ok(answered.recv()?)
    })?;
    drop(queue);
    figures.commits = committer.join().map_err(|_| "the committer panicked")??;
    Ok(figures)
}

fn print(name: &str, way: &str, figures: &Figures) {
    let rate = figures.records as f64 / RUN.as_secs_f64();
    let at = |share: f64| figures.waits[((figures.waits.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    let cpu = figures.cpu.as_micros() as f64 / figures.records as f64;
    let size = if figures.commits > 0 { figures.records as f64 / figures.commits as f64 } else { 1.0 };
    println!("| {name} | {way} | {rate:.0} | {size:.1} | {:.2} | {:.2} | {cpu:.0} |", at(0.5), at(0.99));
}

fn main() -> Result<(), Fault> {
    let place = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    if let Some(instances) = std::env::args().nth(2) {
        return start::run(&place, instances.parse()?);
    }
    println!("| store | commits | records/s | records per commit | p50 ms | p99 ms | CPU us per record |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    let folder = || tempfile::tempdir_in(&place);

    let dir = folder()?;
    let (log, _) = Folder::open(Arc::new(RealDisk), &dir.path().join("log"))?;
    print("own log", "grouped", &grouped(OwnLog(log))?);

    let dir = folder()?;
    let database = Arc::new(redb::Database::create(dir.path().join("redb"))?);
    print("redb", "grouped", &grouped(Redb(database.clone()))?);
    print("redb", "alone", &writers(|record| Redb(database.clone()).commit(&[record]))?);

    let dir = folder()?;
    let database = fjall::Database::builder(dir.path().join("fjall")).open()?;
    let keyspace = database.keyspace("records", fjall::KeyspaceCreateOptions::default)?;
    let store = Fjall(database, keyspace);
    print("fjall", "grouped", &grouped(store.clone())?);
    print("fjall", "alone", &writers(|record| store.clone().commit(&[record]))?);

    let dir = folder()?;
    print("SQLite", "grouped", &grouped(Sqlite::open(dir.path())?)?);
    let dir = folder()?;
    let connections: Vec<_> = (0..WRITERS).map(|_| Sqlite::open(dir.path()).map(Mutex::new)).collect::<Result<_, _>>()?;
    let alone = writers(|record| {
        let mut connection = connections[(record.0 % WRITERS) as usize].lock().map_err(|_| "a writer panicked")?;
        connection.commit(&[record])
    })?;
    print("SQLite", "alone", &alone);
    Ok(())
}
