"""Our images, built by the real Dockerfile from compiled programs."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from support.engine import OURS, VERSION, program, until

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def images(engine):
    engine.ours()
    return {target: f"plinth/{target}:{VERSION}" for target in OURS}


@pytest.mark.parametrize("target", OURS)
def test_an_image_is_its_program_and_a_few_megabytes(engine, images, target):
    size, alone = engine.size(images[target]), program(OURS[target]).stat().st_size
    print(f"{images[target]}: {size / MEGABYTE:.1f} MB, {(size - alone) / MEGABYTE:.1f} MB of them not the program")
    assert size - alone < 6 * MEGABYTE
    # The limit is for what is shipped: programs of the profile dist, the largest of which has 50 MB. Unoptimised ones are larger.
    assert size < 60 * MEGABYTE or alone > 54 * MEGABYTE


@pytest.mark.parametrize("target", OURS)
def test_an_image_says_what_it_is_and_runs_without_rights(engine, images, target):
    [facts] = engine.inspect(images[target])
    settings = facts["Config"]
    assert settings["User"] == "65532:65532" and settings["StopSignal"] == "SIGTERM"
    assert settings["Entrypoint"] == [f"/usr/local/bin/{OURS[target]}"]
    assert settings["Healthcheck"]["Test"] == ["CMD", f"/usr/local/bin/{OURS[target]}", "healthcheck"]
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.title"] == f"plinth/{target}" and labels["org.opencontainers.image.version"] == VERSION
    strict = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
    # Any user: Kubernetes may choose one.
    for user in ("65532:65532", "1000650000:0"):
        done = engine.docker(*strict, "--user", user, images[target], "--help")
        assert "Usage:" in done.stdout
    for shell in ("/bin/sh", "/bin/bash", "/busybox/sh"):
        assert engine.docker(*strict, "--entrypoint", shell, images[target], "-c", "true", check=False).returncode == 127


def test_the_root_file_system_has_what_programs_need_and_no_more(engine, images):
    name = engine.docker("create", images["gateway"]).stdout.strip()
    try:
        packed = engine.run_bytes("export", name)
    finally:
        engine.docker("rm", name)
    files = {member.name: member for member in tarfile.open(fileobj=io.BytesIO(packed)).getmembers() if not member.isdir()}
    assert "etc/ssl/certs/ca-certificates.crt" in files and "usr/share/zoneinfo/Europe/Berlin" in files
    assert files["var/log/kong/access.log"].linkname == "/dev/stdout"
    assert {"var/lib/dpkg/status.d/libc6", "usr/share/doc/plinth/LICENSE-MIT"} <= set(files)
    # what Docker itself puts into every container
    for own in (".dockerenv", "etc/resolv.conf", "etc/hosts", "etc/hostname", "dev/console"):
        files.pop(own, None)
    programs = {path for path, member in files.items() if member.isfile() and member.mode & 0o111 and ".so" not in path}
    assert programs == {"usr/local/bin/gateway"}
    assert not [path for path, member in files.items() if member.mode & 0o6000], "setuid"


def test_a_service_refuses_to_listen_for_everybody_without_a_key(engine, images):
    done = engine.docker("run", "--rm", "--read-only", "-e", "PLINTH_REGISTRY__ADVERTISE=10.0.0.1", images["registry-service"], check=False, timeout=60)
    assert done.returncode == 64 and "auth" in (done.stdout + done.stderr).lower(), done.stdout + done.stderr


def test_the_platform_in_one_container_is_healthy(engine, images):
    """`plinth up`, the image's command: read-only but for its data, and its health check finds the agent."""
    name = engine.docker("run", "-d", "--read-only", "--cap-drop", "ALL", "--health-interval", "1s", images["plinth"]).stdout.strip()
    try:
        until(lambda: engine.inspect(name)[0]["State"]["Health"]["Status"] == "healthy", 60, "healthy")
        engine.docker("stop", "--time", "30", name)
        assert engine.inspect(name)[0]["State"]["ExitCode"] == 0, engine.docker("logs", name).stderr
    finally:
        engine.docker("rm", "--force", "--volumes", name)


def test_the_classic_builder_can_do_it_as_well(engine, images):
    tag = "plinth-test/classic:latest"
    with engine.context([program(name) for name in OURS.values()]) as context:
        engine.build(context, "gateway", tag, buildkit=False)
    try:
        classic, ours = (engine.inspect(image)[0]["Config"] for image in (tag, images["gateway"]))
        for member in ("User", "Entrypoint", "Healthcheck", "Env", "ExposedPorts", "StopSignal"):
            assert classic[member] == ours[member], json.dumps({member: [classic[member], ours[member]]})
        assert engine.docker("run", "--rm", tag, "--version").returncode == 0
    finally:
        engine.docker("rmi", "--force", tag, check=False)
