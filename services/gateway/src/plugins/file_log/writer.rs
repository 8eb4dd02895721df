//! The thread that writes one log file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec};

/// Lines waiting for the disk; beyond it lines are lost and counted, never a worker stopped.
const QUEUE: usize = 16_384;
/// Bytes written with one call.
const BATCH: usize = 64 * 1024;
/// How long lines gather before they are written. A thread that waits on the queue is woken by every line, which costs
/// the worker more than making the line does.
const GATHER: Duration = Duration::from_millis(5);
/// Between two complaints about the same file.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
    /// What follows goes to whatever has the file's name then.
    Reopen,
}

#[derive(Debug)]
pub(in crate::plugins) struct Writer {
    queue: SyncSender<Message>,
    waiting: Arc<AtomicUsize>,
    full: IntCounter,
}

impl Writer {
    /// Starts the thread. It opens the file at once, so that an unwritable path is known before the first request, and ends with the
    /// last user of the writer.
    pub fn start(path: PathBuf, reopen: bool, lost: &IntCounterVec) -> Writer {
        let (queue, lines) = sync_channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let name = path.display().to_string();
        let full = lost.with_label_values(&[name.as_str(), "queue_full"]);
        let io = lost.with_label_values(&[name.as_str(), "io"]);
        let target = Target { path, reopen, file: None, lost: io, complained: None };
        let seen = Arc::clone(&waiting);
        let thread = std::thread::Builder::new().name("file-log".to_owned());
        if let Err(error) = thread.spawn(move || run(target, &lines, &seen)) {
            tracing::error!(path = name, %error, "file-log: the writer thread did not start; nothing is logged");
        }
        Writer { queue, waiting, full }
    }

    pub fn has_room(&self) -> bool {
        self.waiting.load(Relaxed) < QUEUE
    }

    /// Counts a line that was not even made because the queue is full.
    pub fn lost(&self) {
        self.full.inc();
    }

    pub fn write(&self, line: Vec<u8>) {
        self.waiting.fetch_add(1, Relaxed);
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.waiting.fetch_sub(1, Relaxed);
            self.full.inc();
        }
    }

    /// Opens the file anew once what waits now is written.
    pub fn reopen(&self) {
        if self.queue.try_send(Message::Reopen).is_err() {
            tracing::warn!("file-log: a file is not opened anew, its queue is full");
        }
    }

    pub fn flush(&self) {
        let (done, finished) = channel();
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An error means that the thread is gone, and with it what it had to write.
            let _ = finished.recv();
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

fn run(mut target: Target, queue: &Receiver<Message>, waiting: &AtomicUsize) {
    target.open();
    let mut caught_up = true;
    while let Ok(first) = queue.recv() {
        if caught_up && matches!(first, Message::Line(_)) {
            std::thread::sleep(GATHER);
        }
        caught_up = false;
        let mut batch = Vec::new();
        let mut lines = 0;
        let mut flushed = Vec::new();
        let mut reopen = false;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                Message::Flush(done) => flushed.push(done),
                Message::Reopen => {
                    reopen = true;
                    break;
                }
            }
            next = match queue.try_recv() {
                Ok(message) if batch.len() < BATCH => Some(message),
                // One line more than a batch: it still belongs to this one.
                Ok(Message::Line(line)) => {
                    batch.extend_from_slice(&line);
                    lines += 1;
                    None
                }
                Ok(Message::Flush(done)) => {
                    flushed.push(done);
                    None
                }
                Ok(Message::Reopen) => {
                    reopen = true;
                    None
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    caught_up = true;
                    None
                }
            };
        }
        waiting.fetch_sub(lines, Relaxed);
        if lines > 0 {
            target.write(&batch, lines);
        }
        if reopen {
            target.file = None;
            target.open();
        }
        for done in flushed {
            // Whoever waited may have given up.
            let _ = done.send(());
        }
    }
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
        writer.write(b"one\n".to_vec());
        writer.flush();
        std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
        writer.write(b"two\n".to_vec());
        writer.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log.1")).unwrap(), "one\n");
    }

    #[test]
    fn a_file_is_opened_anew_when_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let writer = Writer::start(path.clone(), false, &lost());
        writer.write(b"one\n".to_vec());
        writer.flush();
        let rotated = folder.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        writer.write(b"two\n".to_vec());
        writer.reopen();
        writer.write(b"three\n".to_vec());
        writer.flush();
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn an_unwritable_path_costs_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("access.log");
        let lost = lost();
        let writer = Writer::start(path.clone(), false, &lost);
        for _ in 0..10 {
            writer.write(b"x\n".to_vec());
        }
        writer.flush();
        assert_eq!(lost.with_label_values(&[path.to_str().unwrap(), "io"]).get(), 10);
        std::fs::create_dir(folder.path().join("missing")).unwrap();
        writer.write(b"back\n".to_vec());
        writer.flush();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "back\n");
    }
}
