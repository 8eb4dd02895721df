"""A Docker engine for tests, and the images in it.

No image registry is needed. debian:bookworm-slim is made with debootstrap, the third-party images are built on it from Debian's
packages (live/images), and ours from programs that are compiled already (BINARIES=prebuilt). All stay in the engine's data
folder, $XDG_CACHE_HOME/plinth/docker for an engine that was started here, so the next run finds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(os.environ.get("PLINTH_ROOT") or pathlib.Path(__file__).parents[3])
VERSION = "0.1.0"
DEBIAN = "debian:bookworm-slim"
# Target of the Dockerfile: the programs in it.
OURS = {
    "registry-service": "registry-service",
    "config-service": "config-service",
    "health-aggregator": "health-aggregator",
    "gateway": "gateway",
    "plinth": "plinth",
    "demo-service": "demo-service",
}
# Folder of live/images: the tag that docker-compose.yml names.
STAND_INS = {
    "consul": "hashicorp/consul:1.20",
    "postgres": "postgres:16",
    "redis": "redis:7.4",
    "rabbitmq": "rabbitmq:4.0-management",
    "nginx": "nginx:1.27",
    "prometheus": "prom/prometheus:v3.1.0",
    "alertmanager": "prom/alertmanager:v0.28.0",
}
# Programs copied into their images: the variable that names one, and where it is otherwise, in the cache.
TAKEN = {
    "consul": ("PLINTH_TEST_CONSUL_BIN", "tools/consul-1*/usr/bin/consul"),
    "prometheus": ("PLINTH_TEST_PROMETHEUS_BIN", "tools/prometheus-*/usr/bin/prometheus"),
}
# The label that says what an image was built from, so that a change builds it anew.
SOURCE_LABEL = "plinth.test.source"


class Missing(Exception):
    """Something that the tests need is not on this machine; the text says what, and how to get it."""


def cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "plinth"


def need(program: str, package: str) -> str:
    """The path of a program, or an error that names its Debian package."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise Missing(f"{program} is not installed (Debian package {package})")
    return found


def run(*command, check=True, timeout=600, **more) -> subprocess.CompletedProcess:
    """Runs a command to its end. A failure shows what it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
    if check and done.returncode != 0:
        tail = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{tail}")
    return done


def until(condition, timeout: float, what: str, every: float = 0.1):
    """Polls until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = condition()
            if value:
                return value
        except (OSError, RuntimeError, ValueError, KeyError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what}" + (f" (last error: {last})" if last else ""))
        time.sleep(every)


def program(name: str) -> pathlib.Path:
    """One of our compiled programs, in PLINTH_BIN_DIR."""
    folder = os.environ.get("PLINTH_BIN_DIR")
    if not folder:
        raise Missing("PLINTH_BIN_DIR names no folder; it must hold the five programs and demo-service")
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise Missing(f"{path} is missing; PLINTH_BIN_DIR must hold the five programs and demo-service")
    return path


def digest(*paths: pathlib.Path) -> str:
    """A short digest over the contents of files and folders."""
    sum_ = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            sum_.update(str(file.relative_to(path if path.is_dir() else path.parent)).encode())
            with file.open("rb") as opened:
                while piece := opened.read(1 << 20):
                    sum_.update(piece)
    return sum_.hexdigest()[:16]


def client() -> tuple[str, bool]:
    """A command line client, and whether it can build with BuildKit. Clients before 23 can, newer ones need the plugin buildx."""
    need("docker", "docker.io")
    found = None
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/bin"]:
        path = pathlib.Path(folder) / "docker"
        if not path.is_file():
            continue
        version = run(path, "--version").stdout.split("version ")[-1]
        able = int(version.split(".")[0]) < 23 or run(path, "buildx", "version", check=False).returncode == 0
        if able:
            return str(path), True
        found = found or str(path)
    return found, False


class Engine:
    """A Docker engine at `host`, asked through the command line client."""

    def __init__(self, host: str, daemon: subprocess.Popen | None = None, folder: pathlib.Path | None = None):
        self.host = host
        self._daemon = daemon
        self._folder = folder
        self.client, self.buildkit = client()
        self.env = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "1" if self.buildkit else "0"}

    # -- the engine itself

    # The one that was started here, and how many use it.
    _own: Engine | None = None
    _users = 0

    @classmethod
    def connect(cls) -> Engine:
        """The engine of DOCKER_HOST, else one that is started here and ends with the last `close`."""
        host = os.environ.get("DOCKER_HOST")
        if host:
            engine = cls(host)
            engine.docker("version", "--format", "{{.Server.Version}}")
            return engine
        if Engine._own is None:
            Engine._own = cls._start()
        Engine._users += 1
        return Engine._own

    @classmethod
    def _start(cls) -> Engine:
        if os.geteuid() != 0:
            raise Missing("DOCKER_HOST is not set, and only root can start a Docker engine of its own")
        dockerd = need("dockerd", "docker.io")
        need("iptables", "iptables")
        for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if comm.read_text().strip() == "dockerd":
                    raise Missing(
                        "a Docker engine runs on this machine already, and a second one would change its firewall rules: "
                        "give it in DOCKER_HOST"
                    )
        data = cache_folder() / "docker"
        data.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(prefix="plinth-docker-"))
        host = f"unix://{folder}/docker.sock"
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen(
                [
                    dockerd,
                    f"--host={host}",
                    f"--data-root={data}",
                    f"--exec-root={folder}/exec",
                    f"--pidfile={folder}/pid",
                    "--storage-driver=overlay2",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        engine = cls(host, daemon, folder)

        def answers():
            if daemon.poll() is not None:
                text = (folder / "log").read_text()[-3000:]
                raise SystemError(f"dockerd ended with {daemon.returncode}:\n{text}")
            return engine.docker("version", check=False).returncode == 0

        try:
            until(answers, 60, "dockerd answers")
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Ends an engine that was started here."""
        if self._daemon is None:
            return
        if Engine._own is self:
            Engine._users -= 1
            if Engine._users > 0:
                return
            Engine._own = None
        if self._daemon.poll() is None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(60)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- commands

    def docker(self, *args, check=True, timeout=600, **more) -> subprocess.CompletedProcess:
        return run(self.client, *args, check=check, timeout=timeout, env=self.env, **more)

    def run_bytes(self, *args, timeout=600) -> bytes:
        """What a command prints, when that is no text."""
        return subprocess.run([self.client, *args], capture_output=True, check=True, timeout=timeout, env=self.env).stdout

    def inspect(self, *names: str) -> list[dict]:
        return json.loads(self.docker("inspect", *names).stdout)

    def pid(self, container: str) -> int:
        """The first process of a container, as the engine's host sees it."""
        return self.inspect(container)[0]["State"]["Pid"]

    # -- images

    def source_of(self, tag: str) -> str | None:
        """What an image was built from; None when there is no such image."""
        done = self.docker("image", "inspect", tag, check=False)
        if done.returncode != 0:
            return None
        return (json.loads(done.stdout)[0]["Config"].get("Labels") or {}).get(SOURCE_LABEL, "")

    def size(self, tag: str) -> int:
        return self.inspect(tag)[0]["Size"]

    def debian(self) -> None:
        """debian:bookworm-slim by debootstrap."""
        if self.source_of(DEBIAN) is not None:
            return
        debootstrap = need("debootstrap", "debootstrap")
        if os.geteuid() != 0:
            raise Missing("debootstrap needs root")
        with tempfile.TemporaryDirectory(prefix="plinth-debian-", dir=_roomy()) as folder:
            root = pathlib.Path(folder) / "root"
            run(debootstrap, "--variant=minbase", "bookworm", root)
            for junk in ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/man", "usr/share/locale"]:
                shutil.rmtree(root / junk, ignore_errors=True)
            (root / "var/lib/apt/lists/partial").mkdir(parents=True)
            (root / "var/cache/apt/archives/partial").mkdir(parents=True)
            with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
                self.docker("import", "--change", f"LABEL {SOURCE_LABEL}=debootstrap", "-", DEBIAN, stdin=tar.stdout)
            if tar.returncode != 0:
                raise RuntimeError("tar could not pack the Debian root")

    def stand_ins(self, names=tuple(STAND_INS)) -> None:
        """Third-party images from Debian's packages, under the tags of the compose file."""
        self.debian()
        for name in names:
            tag = STAND_INS[name]
            folder = ROOT / "tests/deploy/live/images" / name
            source = digest(folder)
            if self.source_of(tag) == source:
                continue
            if self.source_of(tag) == "":
                # Somebody's pulled image: the real thing is better than ours.
                continue
            with tempfile.TemporaryDirectory(prefix="plinth-image-", dir=_roomy()) as context:
                shutil.copytree(folder, context, dirs_exist_ok=True)
                if name in TAKEN:
                    shutil.copy2(taken_program(name), pathlib.Path(context) / name)
                self.docker(
                    "build", "--network=host", "--label", f"{SOURCE_LABEL}={source}", "--tag", tag, context, timeout=900
                )

    def ours(self, targets=tuple(OURS)) -> None:
        """Our images from compiled programs, with the real Dockerfile."""
        self.debian()
        parts = [ROOT / "Dockerfile", ROOT / ".dockerignore", ROOT / "infrastructure/docker"]
        programs = {name: program(name) for name in OURS.values()}
        sources = {target: digest(*parts, programs[OURS[target]]) for target in targets}
        wanted = [target for target in targets if self.source_of(f"plinth/{target}:{VERSION}") != sources[target]]
        if not wanted:
            return
        with self.context(programs.values()) as context:
            # The classic builder works through the file up to the target: after the last one, the others are in its cache.
            for target in reversed(wanted):
                self.build(context, target, f"plinth/{target}:{VERSION}", sources[target])

    @contextlib.contextmanager
    def context(self, programs):
        """A folder with what a build with BINARIES=prebuilt reads, and nothing of the workspace's sources."""
        with tempfile.TemporaryDirectory(prefix="plinth-context-", dir=_roomy()) as folder:
            prebuilt_context(pathlib.Path(folder), list(programs))
            yield folder

    def build(self, context, target: str, tag: str, source: str = "", buildkit: bool | None = None) -> None:
        """Builds a target of the Dockerfile in `context` with BuildKit, or with the classic builder."""
        buildkit = self.buildkit if buildkit is None else buildkit
        run(
            self.client, "build", "--network=host", "--target", target, "--tag", tag,
            "--build-arg", "BINARIES=prebuilt",
            # The classic builder starts every stage from its base, also those that do nothing here.
            "--build-arg", f"RUST_IMAGE={DEBIAN}",
            "--build-arg", f"VERSION={VERSION}",
            "--label", f"{SOURCE_LABEL}={source}",
            context,
            timeout=900, env={**self.env, "DOCKER_BUILDKIT": "1" if buildkit else "0"},
        )


def prebuilt_context(folder: pathlib.Path, programs: list[pathlib.Path]) -> None:
    """What a build with BINARIES=prebuilt reads, and nothing of the workspace's sources."""
    for name in ["Dockerfile", ".dockerignore", "LICENSE-MIT", "LICENSE-APACHE"]:
        shutil.copy2(ROOT / name, folder / name)
    scripts = folder / "infrastructure/docker"
    scripts.mkdir(parents=True)
    for script in (ROOT / "infrastructure/docker").glob("*.sh"):
        shutil.copy2(script, scripts / script.name)
    # The classic builder copies these whether it compiles or not.
    for name in ["Cargo.toml", "Cargo.lock"]:
        (folder / name).touch()
    for name in [".cargo", "crates", "services", "examples", "tests", "xtask"]:
        (folder / name).mkdir()
    (folder / "prebuilt").mkdir()
    for path in programs:
        copy = folder / "prebuilt" / path.name
        shutil.copyfile(path, copy)
        copy.chmod(0o755)


def taken_program(name: str) -> pathlib.Path:
    """A server's program that this Debian release does not have: the one that the other tests use as well."""
    variable, pattern = TAKEN[name]
    given = os.environ.get(variable)
    found = [pathlib.Path(given)] if given else sorted(cache_folder().glob(pattern))
    if not found or not found[-1].is_file():
        raise Missing(f"the program {name} is missing: `cargo xtask test` installs it, or name it in {variable}")
    return found[-1]


def _roomy() -> str:
    """A folder on the disk of the cache: /tmp may be small."""
    folder = cache_folder() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
