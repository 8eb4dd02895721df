//! The workspace's own programs as child processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::process::Process;

/// A running program and the addresses it printed.
pub struct Program {
    pub name: String,
    pub process: Process,
    pub addresses: BTreeMap<String, SocketAddr>,
}

/// The folder of the program files: the test itself runs from `<target>/<profile>/deps`.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("path of the test program");
    test.parent().and_then(Path::parent).expect("target folder").to_owned()
}

/// `name` with a clean environment but for PATH and HOME.
pub fn command(name: &str) -> Command {
    let path = folder().join(name);
    assert!(
        path.is_file(),
        "{} is not built: `cargo build --workspace --bins`, or `cargo xtask test`",
        path.display()
    );
    let mut command = Command::new(path);
    command.env_clear();
    for variable in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
}

impl Program {
    /// Starts it and waits until it printed the address of each of `listeners` (`<program>: <name> listening on <url>`).
    pub async fn start(label: &str, command: Command, folder: &Path, listeners: &[&str]) -> Self {
        let mut process = Process::spawn(label, command, folder);
        let addresses = eventually(&format!("{label} prints its addresses"), Duration::from_secs(20), || {
            process.assert_running();
            let printed = addresses(&process.output());
            let all = listeners.iter().all(|name| printed.contains_key(*name));
            let output = process.output();
            async move { if all { Ok(printed) } else { Err(output) } }
        })
        .await;
        Self { name: label.to_owned(), process, addresses }
    }

    pub fn url(&self, listener: &str, path: &str) -> String {
        let address = self
            .addresses
            .get(listener)
            .unwrap_or_else(|| panic!("{} has no listener {listener}", self.name));
        format!("http://{address}{path}")
    }
}

fn addresses(output: &str) -> BTreeMap<String, SocketAddr> {
    output
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(": ")?;
            let (name, url) = rest.split_once(" listening on ")?;
            let (_, address) = url.trim().split_once("://")?;
            Some((name.to_owned(), address.trim_end_matches('/').parse().ok()?))
        })
        .collect()
}
