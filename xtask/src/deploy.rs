//! Tests of what the platform is deployed with (`tests/deploy`): images, compose, chart, rules, logs. In Python, since the
//! tools that render and validate these are Python packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{self, Failed, root, step};
use crate::provision::{self, Tools};

/// What needs no running servers; part of the README's test command.
pub fn quick(tools: &Tools) -> Result<(), Failed> {
    pytest("deployment files", tools, "tests/deploy/static", &[])
}

/// Containers, pods, alerts: real servers with the real files.
pub fn live(tools: &Tools, filters: &[String]) -> Result<(), Failed> {
    provision::for_live_deployment()?;
    process::programs()?;
    pytest("deployment on real servers", tools, "tests/deploy/live", filters)
}

fn pytest(what: &str, tools: &Tools, folder: &str, filters: &[String]) -> Result<(), Failed> {
    let environment = provision::for_deployment()?;
    // other programs than the ones just built, such as those of an image
    let programs = match std::env::var_os("PLINTH_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => absolute(&process::built("debug", ""))?,
    };
    let checkout = absolute(&root())?;
    let mut tests = Command::new(environment.join("bin/python"));
    tests.current_dir(&checkout).args(["-m", "pytest", "-q", "--durations=10", folder]).args(filters);
    tests.env("PLINTH_ROOT", &checkout).env("PLINTH_BIN_DIR", programs);
    tests.env("PLINTH_TEST_CONSUL_BIN", &tools.consul).env("PYTHONDONTWRITEBYTECODE", "1");
    step(what, tests)
}

fn absolute(path: &Path) -> Result<PathBuf, Failed> {
    path.canonicalize().map_err(|error| Failed(format!("{}: {error}", path.display())))
}
