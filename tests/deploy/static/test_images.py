"""The Dockerfile and the scripts around images and compose, without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.engine import OURS, ROOT, STAND_INS, VERSION, run

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def tool(name: str) -> str:
    """A program that a package of requirements.txt puts beside Python."""
    path = Path(sys.executable).parent / name
    found = str(path) if path.is_file() else shutil.which(name)
    assert found, f"{name} is missing: pip install -r tests/deploy/requirements.txt"
    return found


def stage(name: str) -> str:
    """What stands in the stage `name`."""
    found = re.search(rf"^FROM \S+ AS {re.escape(name)}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found, f"the Dockerfile has no stage {name}"
    return found[1]


def test_hadolint_finds_nothing():
    done = subprocess.run([tool("hadolint"), "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_shellcheck_finds_nothing():
    scripts = [*ROOT.glob("infrastructure/*/*.sh"), *ROOT.glob("tests/deploy/live/images/*/*.sh")]
    assert len(scripts) > 8
    done = subprocess.run([tool("shellcheck"), "--color=never", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compiler_is_the_workspaces():
    channel = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert re.search(r"^ARG RUST_IMAGE=rust:(\S+)-bookworm$", DOCKERFILE, re.M)[1] == channel
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert f"ARG VERSION={version}\n" in DOCKERFILE and version == VERSION


@pytest.mark.parametrize("target", OURS)
def test_every_target_runs_its_program_as_nobody(target):
    text = stage(target)
    program = f"/usr/local/bin/{OURS[target]}"
    assert f'ENTRYPOINT ["{program}"]' in text
    assert re.search(rf'^HEALTHCHECK .*CMD \["{program}", "healthcheck"\]$', text, re.M), "a health check in exec form: there is no shell"
    assert f'org.opencontainers.image.title="plinth/{target}"' in text and "org.opencontainers.image.description=" in text
    assert re.search(r"^EXPOSE ", text, re.M)
    assert "USER" not in text and "RUN" not in text, "a target neither changes the user nor runs anything"


def test_the_runtime_is_from_scratch_and_not_root():
    text = stage("runtime")
    assert "FROM scratch AS runtime" in DOCKERFILE
    assert "USER 65532:65532" in text and "STOPSIGNAL SIGTERM" in text and "RUN" not in text
    for label in ("vendor", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in text


def test_no_image_is_named_with_a_registry():
    images = re.findall(r"^ARG \w+_IMAGE=(\S+)$", DOCKERFILE, re.M) + list(STAND_INS.values())
    assert images
    for image in images:
        first = image.split("/")[0]
        assert "." not in first.split(":")[0] and "localhost" not in first, image


def test_the_dependency_layer_has_every_target_and_no_source(tmp_path):
    """manifests.sh on this checkout: Cargo accepts its result, and no line of the sources is in it."""
    # Manifests name tests and benchmarks in folders that the context has as well.
    out = tmp_path / "out"
    run("sh", ROOT / "infrastructure/docker/manifests.sh", _context(tmp_path / "source"), out)
    sources = [file for file in out.rglob("*.rs")]
    assert len(sources) > 10
    assert {file.read_text() for file in sources} <= {"", "fn main() {}\n"}
    # --locked: a lock file that no longer fits the manifests would be an error.
    metadata = run("cargo", "metadata", "--no-deps", "--offline", "--locked", "--format-version", "1", cwd=out)
    for program in OURS.values():
        assert f'"name":"{program}"' in metadata.stdout, program


def _context(folder: Path) -> Path:
    """What the Dockerfile copies for its first stage."""
    folder.mkdir()
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / name, folder / name)
    for name in (".cargo", "crates", "services", "examples", "tests", "xtask"):
        assert f"COPY {name}/ {name}/" in stage("manifests")
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("target", "deploy", "*.md"))
    return folder
