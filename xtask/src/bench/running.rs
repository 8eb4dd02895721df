//! A child process of a benchmark: output in a file, ended with its handle.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Failed;

pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self, Failed> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(|error| Failed(format!("{}: {error}", log.display())))?;
        let errors = file.try_clone().map_err(|error| Failed(format!("{}: {error}", log.display())))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().map_err(|error| Failed(format!("{name}: {command:?}: {error}")))?;
        Ok(Self { child, log })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until something accepts on `address`.
    pub fn listening(&mut self, address: SocketAddr) -> Result<(), Failed> {
        self.until(&format!("{address} accepts"), || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        })
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), Failed> {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > end {
                return Err(Failed(format!(
                    "{what}: not within 30 s or the program ended ({ended:?}):\n{}",
                    self.output()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}
