//! A server process of a test: its own process group, its output in a file, ended with its handle.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr in `folder/<name>.log`, as the leader of its own process group.
    pub fn spawn(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("log file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} ({command:?}) does not start: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("state of a child process")
    }

    /// Sends `signal` to the process itself (not to its group).
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("signal {signal:?} to {}: {error}", self.name));
    }

    /// SIGKILL to the whole group, then waits until all of it is gone: nothing gets a chance to tidy up.
    pub fn kill(&mut self) {
        let group = Pid::from_child(&self.child);
        // Before the leader is reaped, so that its number cannot belong to somebody else yet.
        let _gone_already = kill_process_group(group, Signal::KILL);
        let _status = self.child.wait();
        // Children of the leader (RabbitMQ's shell starts the broker) end on their own time; an init that does not
        // reap them leaves zombies in the group, hence the limit.
        let end = Instant::now() + Duration::from_secs(2);
        while test_kill_process_group(group).is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, then the exit status; panics with the output when it does not end within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        if let Some(status) = self.exited() {
            return status;
        }
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} did not end within {limit:?}; it printed:\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Panics with the output if the process has ended; for the conditions that wait for its readiness.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.exited() {
            panic!("{} ended with {status}; it printed:\n{}", self.name, self.output());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
