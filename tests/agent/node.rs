//! One `plinth agent` on a data folder that outlives it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::process::Process;

use crate::support::program::{Program, command};

pub struct Node {
    pub folder: PathBuf,
    program: Option<Program>,
    starts: usize,
}

/// Small, so that every life sees snapshots.
const COMPACT_AFTER: &str = "60000";

impl Node {
    pub fn new(folder: &Path) -> Node {
        Node { folder: folder.to_owned(), program: None, starts: 0 }
    }

    fn command(&self) -> std::process::Command {
        let mut plinth = command("plinth");
        plinth.args(["agent", "--http-port", "0", "--compact-after", COMPACT_AFTER, "--data-dir"]);
        plinth.arg(self.folder.join("data"));
        plinth
    }

    /// Starts it (again); gives its base URL.
    pub async fn start(&mut self) -> String {
        self.starts += 1;
        let label = format!("agent-{}", self.starts);
        let program = Program::start(&label, self.command(), &self.folder, &["http"]).await;
        self.program.insert(program).url("http", "")
    }

    /// Starts it and kills it somewhere on the way.
    pub async fn start_and_kill(&mut self) {
        self.starts += 1;
        let mut process = Process::spawn(&format!("agent-{}", self.starts), self.command(), &self.folder);
        let lived = std::time::Instant::now();
        let life = Duration::from_micros(fastrand::u64(0..60_000));
        eventually("it has lived", Duration::from_secs(5), || async {
            plinth_testbed::holds(lived.elapsed() >= life, "not yet")
        })
        .await;
        process.kill();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.program = None;
    }
}
