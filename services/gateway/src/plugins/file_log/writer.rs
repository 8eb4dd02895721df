//! The thread that writes one log file.
//!
//! Lines gather in one buffer that workers append to and the thread takes as a whole: no allocation, message or wake-up per
//! line.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::{IntCounter, IntCounterVec};

/// Bytes waiting for the disk; beyond it lines are lost and counted, never a worker stopped.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// How long lines gather before they are written. A thread that is woken by every line costs the worker more than making
/// the line does.
const GATHER: Duration = Duration::from_millis(5);
/// A written buffer larger than this is given back to the allocator.
const KEEP: usize = 1024 * 1024;
/// Between two complaints about the same file.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the thread is to do next.
#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    count: usize,
    /// Answered when everything before it is written.
    flushes: Vec<Sender<()>>,
    /// What stands in `lines` from here on goes to whatever has the file's name then; `count` of the lines before it.
    reopen: Option<(usize, usize)>,
    closed: bool,
}

impl Waiting {
    fn nothing(&self) -> bool {
        self.lines.is_empty() && !self.urgent()
    }

    /// Somebody waits for it.
    fn urgent(&self) -> bool {
        !self.flushes.is_empty() || self.reopen.is_some() || self.closed
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug)]
pub(in crate::plugins) struct Writer {
    queue: Arc<Queue>,
    full: IntCounter,
}

impl Writer {
    /// Starts the thread. It opens the file at once, so that an unwritable path is known before the first request, and ends with the
    /// last user of the writer.
    pub fn start(path: PathBuf, reopen: bool, lost: &IntCounterVec) -> Writer {
        let queue = Arc::<Queue>::default();
        let name = path.display().to_string();
        let full = lost.with_label_values(&[name.as_str(), "queue_full"]);
        let io = lost.with_label_values(&[name.as_str(), "io"]);
        let target = Target { path, reopen, file: None, lost: io, complained: None };
        let own = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("file-log".to_owned());
        if let Err(error) = thread.spawn(move || run(target, &own)) {
            tracing::error!(path = name, %error, "file-log: the writer thread did not start; nothing is logged");
        }
        Writer { queue, full }
    }

    pub fn has_room(&self) -> bool {
        self.queue.waiting.lock().lines.len() < QUEUE_BYTES
    }

    /// Counts a line that was not even made because the queue is full.
    pub fn lost(&self) {
        self.full.inc();
    }

    /// Takes a copy of the line, which ends in a newline.
    pub fn write(&self, line: &[u8]) {
        let mut waiting = self.queue.waiting.lock();
        if waiting.lines.len() + line.len() > QUEUE_BYTES {
            return self.full.inc();
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        waiting.count += 1;
        drop(waiting);
        if first {
            self.queue.wake.notify_one();
        }
    }

    /// Opens the file anew once what waits now is written.
    pub fn reopen(&self) {
        let mut waiting = self.queue.waiting.lock();
        waiting.reopen = Some((waiting.lines.len(), waiting.count));
        drop(waiting);
        self.queue.wake.notify_one();
    }

    pub fn flush(&self) {
        let (done, finished) = channel();
        self.queue.waiting.lock().flushes.push(done);
        self.queue.wake.notify_one();
        // An error means that the thread is gone, and with it what it had to write.
        let _ = finished.recv();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.waiting.lock().closed = true;
        self.queue.wake.notify_one();
    }
}

fn run(mut target: Target, queue: &Queue) {
    target.open();
    let mut batch = Waiting::default();
    while !batch.closed {
        batch.lines.clear();
        batch.lines.shrink_to(KEEP);
        let mut waiting = queue.waiting.lock();
        while waiting.nothing() {
            queue.wake.wait(&mut waiting);
        }
        let gathered = Instant::now() + GATHER;
        while !waiting.urgent() && !queue.wake.wait_until(&mut waiting, gathered).timed_out() {}
        batch = std::mem::replace(&mut *waiting, Waiting { lines: batch.lines, ..Waiting::default() });
        drop(waiting);
        let (before, count) = batch.reopen.unwrap_or((0, 0));
        target.write(&batch.lines[..before], count);
        if batch.reopen.is_some() {
            target.file = None;
            target.open();
        }
        target.write(&batch.lines[before..], batch.count - count);
        for done in batch.flushes.drain(..) {
            // Whoever waited may have given up.
            let _ = done.send(());
        }
    }
}

struct Target {
    path: PathBuf,
    reopen: bool,
    file: Option<File>,
    lost: IntCounter,
    complained: Option<Instant>,
}

impl Target {
    fn open(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                if self.complained.take().is_some() {
                    tracing::info!(path = %self.path.display(), "file-log: the file is writable again");
                }
                self.file = Some(file);
            }
            Err(error) => self.complain(&error),
        }
    }

    fn write(&mut self, batch: &[u8], lines: usize) {
        if lines == 0 {
            return;
        }
        if self.reopen || self.file.is_none() {
            self.file = None;
            self.open();
        }
        let result = match &mut self.file {
            Some(file) => file.write_all(batch),
            None => {
                self.lost.inc_by(lines as u64);
                return;
            }
        };
        if let Err(error) = result {
            self.lost.inc_by(lines as u64);
            self.file = None;
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &std::io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(path = %self.path.display(), %error, "file-log: cannot write; requests are NOT being logged");
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // Opening these by name fails where they are sockets, as under systemd.
    if path == Path::new("/dev/stdout") {
        return Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into());
    }
    if path == Path::new("/dev/stderr") {
        return Ok(std::io::stderr().as_fd().try_clone_to_owned()?.into());
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn lost() -> IntCounterVec {
        IntCounterVec::new(Opts::new("lost", "lost"), &["path", "reason"]).unwrap()
    }

    #[test]
    fn writes_whole_lines_and_follows_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(path.clone(), true, &lost());
        writer.write(b"one\n");
        writer.flush();
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        writer.write(b"two\n");
        writer.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log.1")).unwrap(), "one\n");
    }

    #[test]
    fn an_unwritable_path_costs_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("access.log");
        let lost = lost();
        let writer = Writer::start(path.clone(), false, &lost);
        for _ in 0..10 {
            writer.write(b"x\n");
        }
        writer.flush();
        assert_eq!(lost.with_label_values(&[path.to_str().unwrap(), "io"]).get(), 10);
        std::fs::create_dir(folder.path().join("missing")).unwrap();
        writer.write(b"back\n");
        writer.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "back\n");
    }
    #[test]
    fn a_file_is_opened_anew_when_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(path.clone(), false, &lost());
        writer.write(b"one\n");
        writer.flush();
        let rotated = folder.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        writer.write(b"two\n");
        writer.reopen();
        writer.write(b"three\n");
        writer.flush();
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_counted() {
        let lost = lost();
        let full = lost.with_label_values(&["f", "queue_full"]);
        // Without its thread: nothing ever leaves.
        let writer = Writer { queue: Arc::default(), full: full.clone() };
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..QUEUE_BYTES / line.len() {
            writer.write(&line);
        }
        assert_eq!(full.get(), 0);
        assert!(!writer.has_room());
        writer.write(b"one more\n");
        assert_eq!(full.get(), 1);
    }

    #[test]
    fn lines_of_many_threads_come_whole_and_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(path.clone(), true, &lost());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    for number in 0..2_000 {
                        writer.write(format!("{thread} {number}\n").as_bytes());
                    }
                });
            }
        });
        // The last user goes: what it had to say is still written.
        drop(writer);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut lines = Vec::new();
        while lines.len() < 8_000 && Instant::now() < deadline {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            lines = text.lines().map(str::to_owned).collect();
        }
        assert_eq!(lines.len(), 8_000);
        for thread in 0..4 {
            let own = lines.iter().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
            assert!(own.map(|number| number.parse::<u32>().unwrap()).eq(0..2_000), "in order, each once");
        }
    }
}
