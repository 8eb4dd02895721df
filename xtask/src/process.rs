//! Running other programs, with a heading each.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// Why a task ended early; printed once, by main.
pub struct Failed(pub String);

/// The checkout's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub fn cargo(arguments: &[&str]) -> Command {
    // Set by cargo for what it runs: the same cargo, not another one on PATH.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// A program that cargo built.
pub fn built(profile: &str, name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile).join(name)
}

/// Builds all programs and tests in one go. Together, because tests add features to dependencies: programs built alone would have every
/// dependency compiled a second time.
pub fn programs() -> Result<(), Failed> {
    step("build programs and tests", cargo(&["build", "--workspace", "--bins", "--tests"]))
}

/// Runs it with the output passed through and says how long it took.
pub fn step(what: &str, mut command: Command) -> Result<(), Failed> {
    println!("\n== {what}");
    let start = Instant::now();
    let status = command.status().map_err(|error| Failed(format!("{what}: {command:?}: {error}")))?;
    println!("== {what}: {status}, {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Failed(format!("{what} failed ({status})"))) }
}

/// Standard output of a program that has to succeed.
pub fn output(mut command: Command) -> Result<Vec<u8>, Failed> {
    let output = command.output().map_err(|error| Failed(format!("{command:?}: {error}")))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failed(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr))))
    }
}
