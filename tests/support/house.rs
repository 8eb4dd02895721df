//! `plinth up` as its own process, and the `plinth` commands that talk to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use plinth_testbed::eventually;
use plinth_testbed::process::Process;
use rustix::process::{Pid, Signal};

use super::program::command;

pub struct House {
    pub process: Process,
    pub data: PathBuf,
    /// What the table says: `(service, listener)` to its URL.
    pub table: BTreeMap<(String, String), String>,
    /// The demo's instances and their process ids.
    pub demo: BTreeMap<String, i32>,
    /// The demo's token from the printed curl.
    pub token: String,
}

/// `plinth up` on free ports; flags given later win.
pub fn up(data: &Path, more: &[&str]) -> Command {
    let mut plinth = command("plinth");
    plinth.args(["up", "--data-dir"]).arg(data);
    for part in ["agent", "registry", "config", "health", "proxy", "admin", "status"] {
        if !more.iter().any(|flag| flag.starts_with(&format!("--{part}-listen"))) {
            plinth.arg(format!("--{part}-listen=127.0.0.1:0"));
        }
    }
    plinth.args(more);
    plinth
}

impl House {
    /// Starts it and waits for the end of its table.
    pub async fn start(label: &str, command: Command, data: &Path) -> Self {
        let folder = data.parent().expect("a folder around the data");
        let mut process = Process::spawn(label, command, folder);
        let text = eventually("plinth up prints its table", Duration::from_secs(20), || {
            process.assert_running();
            let output = process.output();
            async move { if output.contains("Ctrl-C stops everything.") { Ok(output) } else { Err(output) } }
        })
        .await;
        let table = text.lines().filter_map(row).collect();
        let demo = text.lines().find_map(|line| line.strip_prefix("demo ")).unwrap_or("");
        let demo = demo.split(", ").filter_map(instance).collect();
        let token = text.split("Authorization: Bearer ").nth(1).and_then(|rest| rest.split('\'').next());
        let token = token.unwrap_or("").to_owned();
        Self { process, data: data.to_owned(), table, demo, token }
    }

    pub fn url(&self, service: &str, listener: &str) -> &str {
        let key = (service.to_owned(), listener.to_owned());
        self.table.get(&key).unwrap_or_else(|| panic!("{key:?} is not in the table {:?}", self.table))
    }

    /// `plinth ARGS` as an operator of this house runs it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut plinth = command("plinth");
        plinth.args(args).env("PLINTH_DATA_DIR", &self.data);
        for (variable, service, listener) in [
            ("PLINTH_REGISTRY_URL", "registry-service", "http"),
            ("PLINTH_CONFIG_URL", "config-service", "http"),
            ("PLINTH_HEALTH_URL", "health-aggregator", "http"),
            ("PLINTH_GATEWAY_ADMIN_URL", "gateway", "admin"),
        ] {
            plinth.env(variable, self.url(service, listener));
        }
        plinth
    }

    pub fn run(&self, args: &[&str]) -> Output {
        tokio::task::block_in_place(|| self.command(args).output().expect("plinth runs"))
    }

    /// Standard output of a command that has to succeed.
    pub fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "plinth {args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The same with `--output json`, parsed.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.text(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("plinth {args:?}: {error}: {text}"))
    }
}

fn row(line: &str) -> Option<((String, String), String)> {
    let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    match cells[..] {
        [service, listener, url] if url.starts_with("http") => {
            Some(((service.to_owned(), listener.to_owned()), url.to_owned()))
        }
        _ => None,
    }
}

/// `user-1 (pid 123)`.
fn instance(words: &str) -> Option<(String, i32)> {
    let (id, rest) = words.trim().split_once(" (pid ")?;
    Some((id.to_owned(), rest.trim_end_matches(')').parse().ok()?))
}

pub fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, Signal::KILL).expect("a running process");
}

/// Whether the process has ended; one that nobody has waited for yet counts as ended.
pub fn ended(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}
