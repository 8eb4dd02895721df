"""docker-compose.yml and secrets.sh, without an engine."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import time

import pytest
import yaml
from support.engine import OURS, ROOT, STAND_INS, VERSION, run

TEXT = (ROOT / "docker-compose.yml").read_text()
FILE = yaml.safe_load(TEXT)
SERVICES = FILE["services"]
PLATFORM = {"registry-service": "REGISTRY", "config-service": "CONFIG", "health-aggregator": "HEALTH", "gateway": "GATEWAY"}
SCRIPT = ROOT / "infrastructure/docker/secrets.sh"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "secrets"
    run(SCRIPT, env={**os.environ, "PLINTH_SECRETS_DIR": str(folder)})
    return folder


def script(folder, *args, check=True, **env):
    return run(SCRIPT, *args, env={**os.environ, "PLINTH_SECRETS_DIR": str(folder), **env}, check=check)


# ---- the file


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_least_rights_and_limits(name):
    one = SERVICES[name]
    once = name in ONCE
    assert one["restart"] == ("on-failure" if once else "unless-stopped")
    assert one["cap_drop"] == ["ALL"] and one["security_opt"] == ["no-new-privileges:true"]
    assert one.get("read_only") is True or name in WRITABLE, f"{name}: a writable root needs a reason in WRITABLE"
    assert "mem_limit" in one and "pids_limit" in one
    assert one.get("cap_add", []) == CAPABILITIES.get(name, [])
    assert (once or "healthcheck" in one) and one["logging"]["options"]["max-size"]
    assert "container_name" not in one and "privileged" not in one and one.get("network_mode") is None
    for port in one.get("ports", []):
        if name == "nginx":
            assert port.startswith("${PLINTH_FRONT_ADDRESS:-127.0.0.1}:")
        else:
            assert re.fullmatch(r"127\.0\.0\.1::\d+", port), f"{name}: {port}: a fixed port cannot be scaled"


# Services whose images write to their root; each with the reason.
WRITABLE = {
    "elasticsearch": "keeps its password in a key store among its configuration",
    "logstash": "its entry point writes settings to its configuration",
    "kibana": "writes to its own folders when it starts",
}
# Services that do something once, and end.
ONCE = {"elk-setup"}
# What a service may beyond nothing.
CAPABILITIES = {"filebeat": ["DAC_READ_SEARCH"]}


def test_ours_can_be_scaled_and_run_as_their_image_says():
    for name in PLATFORM:
        one = SERVICES[name]
        assert one["image"] == f"plinth/{name}:${{PLINTH_VERSION:-{VERSION}}}" and one["build"]["target"] in OURS
        assert "volumes" not in one and "hostname" not in one and "user" not in one
        assert one["environment"][f"PLINTH_{PLATFORM[name]}__ADVERTISE"] == "auto"
        # Longer than the program's own limit.
        assert int(one["stop_grace_period"].rstrip("s")) > 30


def test_third_party_images_are_those_that_the_live_tests_build():
    named = {one["image"] for one in SERVICES.values() if not one["image"].startswith("plinth/")}
    assert set(STAND_INS.values()) <= named
    for image in named:
        assert ":" in image and not image.endswith(":latest"), image
        assert "." not in image.split(":")[0], f"{image} names a registry"


def test_the_start_waits_for_health():
    for name, one in SERVICES.items():
        for other, how in (one.get("depends_on") or {}).items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully"), (name, other)
    for name in PLATFORM:
        assert {"consul-1", "consul-2", "consul-3"} <= set(SERVICES[name]["depends_on"])
    assert {"registry-service", "gateway"} <= set(SERVICES["nginx"]["depends_on"])


def test_networks_separate_front_services_and_stores():
    networks = {name: set(one["networks"]) for name, one in SERVICES.items()}
    assert FILE["networks"]["data"]["internal"] is True
    for store in ("postgres", "redis", "rabbitmq"):
        assert networks[store] == {"data"}
    assert {name for name, on in networks.items() if "data" in on} & set(PLATFORM) == {"config-service", "gateway"}
    assert not {name for name, on in networks.items() if "front" in on} & {*PLATFORM, "consul-1", "consul-2", "consul-3"}
    assert networks["nginx"] == {"front", "services"}


def test_no_secret_is_in_the_file():
    for name, one in SERVICES.items():
        for variable, value in (one.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|DATABASE__URL|EVENTS__URL", variable):
                assert str(value).startswith("/run/secrets/"), f"{name}: {variable}"
    used = {secret for one in SERVICES.values() for secret in one.get("secrets", [])}
    assert used == set(FILE["secrets"])
    assert all(set(secret) == {"file"} for secret in FILE["secrets"].values())


def test_volumes_are_named_and_mounted_files_exist():
    for name, one in SERVICES.items():
        for volume in one.get("volumes", []):
            if volume.startswith("${"):
                assert volume.endswith(":ro"), f"{name}: {volume}"
                continue
            source, target, *mode = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert mode == ["ro"], f"{name}: {volume}: our files are mounted read-only"
            elif not source.startswith("/"):
                assert source in FILE["volumes"], f"{name}: {source}"


def test_settings_are_those_of_the_programs():
    folder = os.environ.get("PLINTH_BIN_DIR")
    if not folder:
        # As the chart's tests: the sources say the same, and the live test runs it.
        pytest.fail("PLINTH_BIN_DIR names no folder with the programs")
    for name in [*PLATFORM, "demo-service"]:
        text = run(f"{folder}/{name}", "--help").stdout
        service = SERVICES[name if name in PLATFORM else "user-service"]
        for variable in service["environment"]:
            known = variable.removesuffix("_FILE") if "or a file: the same names with _file" in text else variable
            assert variable in text or known in text, f"{name} has no setting {variable}"


def test_a_forgotten_secrets_script_is_named_in_the_error():
    assert re.search(r"\$\{PLINTH_SECRETS:\?[^}]*run infrastructure/docker/secrets\.sh first\}", TEXT)


# ---- the secrets


def test_every_secret_of_the_file_is_made(secrets):
    for name, secret in FILE["secrets"].items():
        file = secrets / secret["file"].rsplit("/", 1)[1]
        assert file.name == name and file.stat().st_size > 30, name
        assert stat.S_IMODE(file.stat().st_mode) == 0o444, name
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    for private in ("token-key.pem", "consumer-key.pem"):
        assert stat.S_IMODE((secrets / private).stat().st_mode) == 0o600
        assert private not in FILE["secrets"], "no container needs what signs tokens"
    assert not [file.name for file in secrets.iterdir() if file.name.startswith(".")], "left over"


def test_two_runs_share_no_secret_and_none_is_overwritten(secrets, tmp_path):
    other = tmp_path / "other"
    script(other)
    same = {file.name for file in secrets.iterdir() if file.read_bytes() == (other / file.name).read_bytes()}
    assert same == set()
    before = {file.name: file.read_bytes() for file in other.iterdir()}
    again = script(other, check=False)
    assert again.returncode == 1 and "not overwritten" in again.stderr
    assert before == {file.name: file.read_bytes() for file in other.iterdir()}
    for value in before.values():
        if len(value) == 43:
            assert value.decode() not in again.stdout + again.stderr


def claims(token: str) -> dict:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_tokens_say_what_was_asked_and_are_signed(secrets, tmp_path):
    token = script(secrets, "token", "services:write config:read", "60").stdout.strip()
    said = claims(token)
    assert (said["iss"], said["aud"], said["scope"]) == ("plinth", "plinth", "services:write config:read")
    assert 0 < said["exp"] - time.time() <= 60
    head, _, signature = token.rpartition(".")
    (tmp_path / "text").write_text(head)
    (tmp_path / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)))
    run("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", secrets / "auth.pub.pem", "-in", tmp_path / "text", "-sigfile", tmp_path / "signature")
    for name, scope in (("registry-health-token", "health:read"), ("health-peer-token", "health:probe"), ("nginx-registry-token", "services:read")):
        said = claims((secrets / name).read_text())
        assert said["scope"] == scope and said["exp"] - time.time() > 300 * 86400
    wrong = script(secrets, "token", 'x","admin":"', check=False)
    assert wrong.returncode == 1 and "scopes" in wrong.stderr
    assert script(secrets, "token", "a", "soon", check=False).returncode == 1
    assert script(secrets, "nonsense", check=False).returncode == 1


def test_the_kong_file_differs_in_key_and_password_only(secrets):
    ours = (secrets / "kong.yml").read_text().splitlines()
    source = (ROOT / "infrastructure/kong/kong.yml").read_text().splitlines()
    added = [line for line in ours if line not in source]
    key = (secrets / "consumer-key.pub.pem").read_text().splitlines()
    password = (secrets / "redis-password").read_text()
    assert {line.strip() for line in added} == set(key[1:-1]) | {f'redis_password: "{password}"'}
    assert [line for line in ours if "redis_password" not in line][: len(ours) - 1]
    # Made anew in place, so that a container that has the file mounted sees it.
    inode = (secrets / "kong.yml").stat().st_ino
    script(secrets, "kong")
    assert (secrets / "kong.yml").stat().st_ino == inode


def test_the_front_has_a_certificate_of_an_authority_whose_key_is_gone(secrets):
    run("openssl", "verify", "-CAfile", secrets / "front-ca.pem", "-verify_hostname", "localhost", "-purpose", "sslserver", secrets / "front.pem")
    assert not list(secrets.glob("*ca*.key"))


def test_it_needs_no_secret_on_a_command_line():
    text = SCRIPT.read_text()
    assert not re.search(r"-pass(?:in|out) pass:|-hmac \"?\$", text)
    for name in ("infrastructure/postgres/init.sh", "infrastructure/nginx/upstreams.sh"):
        assert not re.search(r"(?:--set password=|-H .?Authorization)", (ROOT / name).read_text())


def test_scripts_are_executable():
    for name in ("docker/secrets.sh", "docker/roll.sh", "postgres/init.sh", "nginx/start.sh"):
        assert os.access(ROOT / "infrastructure" / name, os.X_OK), name


def test_compose_itself_accepts_the_file(secrets):
    """With whichever compose is installed; the live test needs it anyway."""
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
                break
        except FileNotFoundError:
            continue
    else:
        pytest.fail("docker compose is not installed (Debian package docker-compose)")
    env = {**os.environ, "PLINTH_SECRETS": str(secrets), "COMPOSE_PROFILES": "demo,monitoring,logging,kong"}
    done = run(*command, "-f", ROOT / "docker-compose.yml", "config", "--services", env=env)
    assert set(done.stdout.split()) == set(SERVICES)
    # Without the script's .env, from a folder that has none.
    env.pop("PLINTH_SECRETS")
    done = run(*command, "-f", ROOT / "docker-compose.yml", "--project-directory", "/nonexistent", "config", "--quiet", env=env, check=False)
    assert done.returncode != 0 and "run infrastructure/docker/secrets.sh first" in done.stderr + done.stdout
