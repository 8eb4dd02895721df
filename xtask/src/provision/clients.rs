//! The Consul clients of `tests/conformance`, in fixed versions, in `<tools>/clients`.

use std::path::Path;
use std::process::Command;

use super::debian::{CONSUL_GO, PROMETHEUS};
use crate::process::{Failed, cargo, output, root, step};

/// For the programs of `tests/conformance`; Node.js brings no npm on Debian.
const PACKAGES: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];

/// What the Python clients and py-consul's own tests import, and Traefik.
const PYTHON: [&str; 7] = [
    "aiohttp==3.14.5",
    "packaging==26.4",
    "pytest==9.2.0",
    "pytest-asyncio==1.5.0",
    "requests==2.34.2",
    "six==1.17.0",
    super::TRAEFIK,
];
/// All three call themselves `consul`: each gets a folder of its own.
const PY_CONSUL: &str = "py-consul==1.8.0";
const OLDER_CLIENTS: [(&str, &str); 2] =
    [("python-consul", "python-consul==1.1.0"), ("python-consul2", "python-consul2==0.1.5")];

const NODE: [&str; 3] = ["consul@2.0.1", "papi@1.1.2", "uuid@10.0.0"];

/// Patroni with its Consul store, and the compiler and libraries of the Go client's tests.
const LONG_PACKAGES: [(&str, &str); 3] =
    [("patroni", "patroni"), ("go", "golang-go"), ("postgres", "postgresql")];
/// Debian's source packages, by the folder below `/usr/share/gocode/src/github.com`.
const GO_LIBRARIES: [(&str, &str); 9] = [
    ("hashicorp/go-cleanhttp", "golang-github-hashicorp-go-cleanhttp-dev"),
    ("hashicorp/go-hclog", "golang-github-hashicorp-go-hclog-dev"),
    ("hashicorp/go-rootcerts", "golang-github-hashicorp-go-rootcerts-dev"),
    ("hashicorp/go-uuid", "golang-github-hashicorp-go-uuid-dev"),
    ("hashicorp/serf", "golang-github-hashicorp-serf-dev"),
    ("mitchellh/go-testing-interface", "golang-github-mitchellh-go-testing-interface-dev"),
    ("mitchellh/mapstructure", "golang-github-mitchellh-mapstructure-dev"),
    ("pkg/errors", "golang-github-pkg-errors-dev"),
    ("stretchr/testify", "golang-github-stretchr-testify-dev"),
];
const GO_SOURCES: &str = "/usr/share/gocode";

pub fn for_tests(tools: &Path) -> Result<(), Failed> {
    super::packages(&PACKAGES)?;
    PROMETHEUS.unpacked(tools)?;
    let clients = tools.join("clients");
    std::fs::create_dir_all(&clients).map_err(|error| Failed(format!("{}: {error}", clients.display())))?;
    python(&clients)?;
    node(&clients)
}

pub fn for_conformance(tools: &Path) -> Result<(), Failed> {
    super::packages(&LONG_PACKAGES)?;
    // Patroni only recommends its Consul client.
    let consul = Path::new("/usr/lib/python3/dist-packages/consul");
    if !consul.is_dir() {
        super::install(&["python3-consul"])?;
    }
    go(tools)?;
    let mut client = cargo(&["build", "--quiet", "--locked", "--manifest-path"]);
    client.arg(root().join("tests/conformance/rust/Cargo.toml"));
    client.arg("--target-dir").arg(tools.join("clients/rs-consul"));
    step("build the rs-consul client", client)
}

fn python(clients: &Path) -> Result<(), Failed> {
    let folder = clients.join("python");
    let programs = folder.join("bin");
    if !programs.join("traefik").is_file() || !programs.join("pytest").is_file() {
        let environment = || {
            let mut environment = Command::new("python3");
            environment.args(["-m", "venv"]).arg(&folder);
            output(environment)
        };
        if environment().is_err() {
            super::install(&["python3-venv"])?;
            environment()?;
        }
        let mut install = Command::new(programs.join("pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check"]).args(PYTHON);
        step("Python packages", install)?;
    }
    for (name, version) in OLDER_CLIENTS {
        let target = clients.join(name);
        if !target.is_dir() {
            let mut install = Command::new(programs.join("pip"));
            install.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
            install.arg(&target).arg(version);
            step(name, install)?;
        }
    }
    // The source package, for its tests.
    if !clients.join(PY_CONSUL.replace("==", "-")).is_dir() {
        let mut download = Command::new(programs.join("pip"));
        download.args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary=py-consul",
        ]);
        download.arg("--dest").arg(clients).arg(PY_CONSUL);
        step(PY_CONSUL, download)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(clients.join("py_consul-1.8.0.tar.gz")).arg("-C").arg(clients);
        unpack.arg("--transform=s/^py_consul/py-consul/");
        output(unpack)?;
    }
    Ok(())
}

fn node(clients: &Path) -> Result<(), Failed> {
    let folder = clients.join("node");
    if folder.join("node_modules/consul").is_dir() {
        return Ok(());
    }
    let mut install = Command::new("npm");
    install
        .args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix"])
        .arg(&folder)
        .args(NODE);
    step("npm packages", install)
}

/// The Go client's tests as programs. Debian's Go has no modules to fetch: its libraries lie in one source tree.
fn go(tools: &Path) -> Result<(), Failed> {
    let missing: Vec<&str> = GO_LIBRARIES
        .iter()
        .filter(|(folder, _)| !Path::new(GO_SOURCES).join("src/github.com").join(folder).is_dir())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        super::install(&missing)?;
    }
    let sources = CONSUL_GO.unpacked(tools)?.join("usr/share/gocode");
    let programs = tools.join("go-consul-1.8.7");
    for (package, program) in [("./api", "api.test"), ("./api/watch", "watch.test")] {
        let program = programs.join(program);
        if program.is_file() {
            continue;
        }
        let mut compile = Command::new("go");
        compile.args(["test", "-c", "-o"]).arg(&program).arg(package);
        compile.current_dir(sources.join("src/github.com/hashicorp/consul"));
        compile.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOCACHE", tools.join("go-cache"));
        compile.env("GOPATH", format!("{}:{GO_SOURCES}", sources.display()));
        step("compile the Go client's tests", compile)?;
    }
    Ok(())
}
