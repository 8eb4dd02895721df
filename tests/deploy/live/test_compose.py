"""docker-compose.yml, truly run: all healthy, a request from the front to a service, crashes, scaling, rolling restarts under load.

The engine and its images are support/engine.py's. Grafana, Elasticsearch, Logstash, Kibana, Filebeat and Kong have no Debian packages, so
there are no images of them here: their services are not run by these tests.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import secrets as randomness
import signal
import ssl
import time
import urllib.error
import urllib.request

import pytest
from support.engine import DEBIAN, ROOT, Engine, need, run, until
from support.load import Load
from support.ports import free_port

PLATFORM = ("registry-service", "config-service", "health-aggregator", "gateway")
CONSUL = ("consul-1", "consul-2", "consul-3")
CORE = (*CONSUL, "postgres", "redis", "rabbitmq", *PLATFORM, "nginx")
DEMO = ("user-service", "document-service")
MONITORING = ("prometheus", "alertmanager")
NOT_RUN = {"grafana", "kong", "elasticsearch", "logstash", "kibana", "filebeat", "elk-setup"}
PATH = "/api/v1/users/1"


class Stack:
    """The compose project, and what its clients know."""

    def __init__(self, engine: Engine, folder):
        self.engine = engine
        self.name = f"plinthtest{os.getpid()}"
        self.secrets = folder / "secrets"
        self.https, self.http = free_port(), free_port()
        self.report: list[str] = []
        self.env = {
            **engine.env,
            "PLINTH_SECRETS": str(self.secrets),
            "PLINTH_SECRETS_DIR": str(self.secrets),
            "PLINTH_HTTPS_PORT": str(self.https),
            "PLINTH_HTTP_PORT": str(self.http),
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_PROFILES": "demo,monitoring",
            "COMPOSE_HTTP_TIMEOUT": "180",
        }
        self.compose_command = self._compose_command()

    def _compose_command(self) -> list[str]:
        docker = self.engine.client
        if run(docker, "compose", "version", check=False).returncode == 0:
            return [docker, "compose"]
        return [need("docker-compose", "docker-compose")]

    def compose(self, *args, check=True, timeout=300):
        return run(*self.compose_command, *args, check=check, timeout=timeout, env=self.env, cwd=ROOT)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def script(self, name: str, *args, timeout=300) -> str:
        command = " ".join(self.compose_command)
        return run(ROOT / "infrastructure/docker" / name, *args, env={**self.env, "PLINTH_COMPOSE": command},
                   cwd=ROOT, timeout=timeout).stdout.strip()

    @functools.cache  # noqa: B019
    def token(self, scopes: str) -> dict:
        return {"Authorization": "Bearer " + self.script("secrets.sh", "token", scopes, "7200")}

    def containers(self, service: str) -> list[dict]:
        # Not by compose, which takes seconds to say it.
        label = "label=com.docker.compose."
        ids = self.engine.docker("ps", "-aq", "--filter", f"{label}project={self.name}", "--filter", f"{label}service={service}").stdout.split()
        return self.engine.inspect(*ids) if ids else []

    def healthy(self, service: str, count: int | None = None) -> bool:
        found = self.containers(service)
        states = [(one["State"].get("Health") or {}).get("Status") for one in found]
        return states != [] and set(states) == {"healthy"} and (count is None or len(states) == count)

    def published(self, service: str, port: int) -> int:
        """The port on loopback behind which a replica is."""
        for one in self.containers(service):
            for binding in one["NetworkSettings"]["Ports"].get(f"{port}/tcp") or []:
                return int(binding["HostPort"])
        raise AssertionError(f"{service} publishes no port {port}")

    def call(self, service: str, port: int, path: str, headers=None, method="GET", body=None):
        """A request to a service's own port: status and JSON."""
        url = f"http://127.0.0.1:{self.published(service, port)}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers={**(headers or {}), "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.secrets / "front-ca.pem")

    def front(self, path=PATH, headers=None):
        connection = http.client.HTTPSConnection("localhost", self.https, timeout=10, context=self.tls())
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer, answer.read()

    @functools.cache  # noqa: B019
    def consumer(self) -> dict:
        return {"Authorization": "Bearer " + self.script("secrets.sh", "consumer-token", "7200")}

    def load(self) -> Load:
        return Load("localhost", self.https, PATH, self.consumer(), self.tls())

    def instances(self, service: str) -> set[str]:
        """Addresses that the registry gives as healthy."""
        status, found = self.call("registry-service", 8510, f"/api/v1/services/discover/{service}?healthy_only=true", self.token("services:read"))
        return {f"{one['address']}:{one['port']}" for one in found["services"]} if status == 200 else set()

    def upstreams(self) -> set[str]:
        """Gateways that nginx knows."""
        [nginx] = self.containers("nginx")
        text = self.engine.docker("exec", nginx["Id"], "cat", "/run/nginx/upstream-gateway.conf").stdout
        return set(re.findall(r"server (\S+) weight", text))

    def crash(self, container: dict) -> None:
        """Ends a container's first process as a fault would. `docker kill` is something else: Docker takes it for the operator's
        wish and does not start the container again."""
        os.kill(container["State"]["Pid"], signal.SIGKILL)

    def tell(self, line: str) -> None:
        self.report.append(line)
        print(line, flush=True)


@pytest.fixture(scope="module")
def stack(engine, tmp_path_factory):
    engine.stand_ins()
    engine.ours()
    stack = Stack(engine, tmp_path_factory.mktemp("compose"))
    stack.script("secrets.sh")
    try:
        begun = time.monotonic()
        stack.compose("up", "-d", "--no-build", *CORE, *DEMO, *MONITORING)
        for service in (*CORE, *DEMO, *MONITORING):
            until(lambda service=service: stack.healthy(service), 120, f"{service} is healthy", every=0.3)
        stack.tell(f"up: {len((*CORE, *DEMO, *MONITORING))} services healthy after {time.monotonic() - begun:.0f} s")
        yield stack
    except BaseException:
        print(stack.compose("ps", check=False).stdout)
        print(stack.compose("logs", "--no-color", "--tail", "15", check=False).stdout[-12000:])
        raise
    finally:
        begun = time.monotonic()
        # At once: that they end politely when asked is what the rolling restarts show.
        running = engine.docker("ps", "-q", "--filter", f"label=com.docker.compose.project={stack.name}").stdout.split()
        if running:
            engine.docker("kill", *running, check=False)
        stack.compose("down", "--volumes", "--timeout", "2", check=False)
        left = engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={stack.name}").stdout.split()
        volumes = engine.docker("volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={stack.name}").stdout.split()
        if left:
            engine.docker("rm", "--force", "--volumes", *left, check=False)
        print(f"down after {time.monotonic() - begun:.0f} s")
        folder = os.environ.get("PLINTH_REPORT_DIR")
        if folder:
            with open(os.path.join(folder, "compose.txt"), "w") as report:
                report.write("\n".join(stack.report) + "\n")
        assert not left and not volumes, f"docker-compose down left {left} {volumes}"


def test_every_service_of_the_file_is_run_or_named_as_not_run(stack):
    services = set(stack.compose("config", "--services").stdout.split())
    assert services - set(CORE) - set(DEMO) - set(MONITORING) <= NOT_RUN


def test_containers_have_the_least_rights(stack):
    words = {file.read_text().strip() for file in stack.secrets.iterdir() if not file.name.endswith((".pem", ".yml"))}
    assert len(words) > 8
    for service in (*CORE, *DEMO, *MONITORING):
        for one in stack.containers(service):
            host, settings = one["HostConfig"], one["Config"]
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
            assert any("no-new-privileges" in option for option in host["SecurityOpt"]), service
            assert host["Memory"] > 0 and host["PidsLimit"] > 0, service
            assert settings["User"].split(":")[0] not in ("", "0", "root"), service
            assert host["RestartPolicy"]["Name"] == "unless-stopped", service
            shown = "\n".join([*settings["Env"], *(settings["Cmd"] or [])])
            assert not [word for word in words if word in shown], f"{service} has a secret in its environment or command"
            for port, bindings in one["NetworkSettings"]["Ports"].items():
                assert all(binding["HostIp"] == "127.0.0.1" for binding in bindings or []), (service, port)


@pytest.mark.parametrize(
    ("network", "reached", "closed"),
    [
        ("front", ["nginx 8443"], ["postgres 5432", "consul 8500", "registry-service 8510", "gateway 8000"]),
        ("services", ["consul 8500", "registry-service 8510"], ["postgres 5432", "redis 6379", "rabbitmq 5672"]),
        ("data", ["postgres 5432", "redis 6379", "rabbitmq 5672"], ["consul 8500", "registry-service 8510", "nginx 8443"]),
    ],
)
def test_networks_are_apart(stack, network, reached, closed):
    script = 'for t in "$@"; do timeout 3 bash -c "exec 3<>/dev/tcp/${t% *}/${t#* }" 2>/dev/null && echo "$t"; done; true'
    found = stack.engine.docker(
        "run", "--rm", "--network", f"{stack.name}_{network}", DEBIAN, "bash", "-c", script, "-", *reached, *closed
    ).stdout.splitlines()
    assert found == reached


def test_a_service_registers_and_is_found(stack):
    body = {"service_name": "outside", "service_id": "outside-1", "address": "10.1.2.3", "port": 9999}
    status, answer = stack.call("registry-service", 8510, "/api/v1/services/register", method="POST", body=body)
    assert status == 401, answer
    writer = stack.token("services:write services:read")
    status, answer = stack.call("registry-service", 8510, "/api/v1/services/register", writer, "POST", body)
    assert status == 201, answer
    status, answer = stack.call("registry-service", 8510, "/api/v1/services/discover/outside", writer)
    assert status == 200 and [one["address"] for one in answer["services"]] == ["10.1.2.3"]
    status, answer = stack.call("registry-service", 8510, "/api/v1/services/outside-1", writer, "DELETE")
    assert status in (200, 204), answer


def test_configuration_is_in_postgresql_and_its_event_in_rabbitmq(stack):
    rights = stack.token("config:read config:write")
    value = randomness.token_hex(8)
    status, answer = stack.call("config-service", 8520, "/api/v1/config/shop/dev/greeting", rights, "PUT", {"value": value})
    assert status in (200, 201), answer
    status, answer = stack.call("config-service", 8520, "/api/v1/config/shop/dev/greeting", rights)
    assert status == 200 and answer["value"] == value
    [postgres] = stack.containers("postgres")
    sql = "SELECT value FROM plinth_config.config_revision WHERE key = 'greeting'"
    rows = stack.engine.docker("exec", postgres["Id"], "psql", "-U", "postgres", "-d", "plinth", "-Atc", sql).stdout
    assert value in rows
    # Each role sees its own schema only, and may not make roles or databases.
    rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'config_service'"
    assert stack.engine.docker("exec", postgres["Id"], "psql", "-U", "postgres", "-d", "plinth", "-Atc", rights).stdout.strip() == "f"
    # The outbox is empty once RabbitMQ has confirmed.
    left = "SELECT count(*) FROM plinth_config.outbox"
    until(
        lambda: stack.engine.docker("exec", postgres["Id"], "psql", "-U", "postgres", "-d", "plinth", "-Atc", left).stdout.strip() == "0",
        20, "RabbitMQ has confirmed every event",
    )
    [rabbitmq] = stack.containers("rabbitmq")
    users = stack.engine.docker("exec", rabbitmq["Id"], "rabbitmqctl", "-q", "list_users").stdout
    assert "guest" not in users and "config-service" in users
    assert "plinth.events" in stack.engine.docker("exec", rabbitmq["Id"], "rabbitmqctl", "-q", "list_exchanges", "-p", "plinth").stdout


def test_a_request_goes_from_the_front_to_a_service(stack):
    answer, _ = stack.front()
    assert answer.status == 401
    answer, body = stack.front(headers={**stack.consumer(), "X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6"})
    assert answer.status == 200, body
    seen = json.loads(body)
    assert seen["service"] == "user-service" and seen["headers"]["x-consumer-username"] == "frontend-app"
    assert seen["headers"]["x-forwarded-proto"] == "https"
    assert "6.6.6.6" not in body.decode(), "a client's own word about its address went through"
    # gRPC by its content type: to the gateway over HTTP/2 without TLS.
    grpc = run(
        need("curl", "curl"), "-sS", "--http2", "--cacert", stack.secrets / "front-ca.pem", "-o", "/dev/null", "-w", "%{http_version} %{http_code}",
        "-H", "Content-Type: application/grpc", "-H", "Authorization: " + stack.consumer()["Authorization"], "--data-binary", "x",
        f"https://localhost:{stack.https}{PATH}",
    )
    assert grpc.stdout == "2 200"
    # Counted in Redis, with the password that only the gateway has.
    assert int(answer.headers["X-RateLimit-Remaining-Minute"]) < 100
    [redis] = stack.containers("redis")
    ask = ["exec", "-e", f"REDISCLI_AUTH={stack.secret('redis-password')}", redis["Id"], "redis-cli"]
    assert int(stack.engine.docker(*ask, "dbsize").stdout) > 0
    assert "NOPERM" in stack.engine.docker(*ask, "flushall").stdout
    assert "NOAUTH" in stack.engine.docker("exec", redis["Id"], "redis-cli", "dbsize").stdout
    plain = http.client.HTTPConnection("localhost", stack.http, timeout=5)
    plain.request("GET", "/x?y=1")
    moved = plain.getresponse()
    assert moved.status == 308 and moved.headers["Location"] == f"https://localhost:{stack.https}/x?y=1"


def test_prometheus_finds_every_replica(stack):
    def targets():
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.published('prometheus', 9090)}/api/v1/targets?state=active", timeout=5) as answer:
            active = json.load(answer)["data"]["activeTargets"]
        up = {(one["labels"]["job"], one["labels"]["instance"]) for one in active if one["health"] == "up"}
        return {job for job, _ in up} >= {*PLATFORM, "prometheus", "alertmanager"} and len(up) == len(active)

    until(targets, 60, "every target of Prometheus is up", every=0.5)
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.published('prometheus', 9090)}/api/v1/alertmanagers", timeout=5) as answer:
        assert len(json.load(answer)["data"]["activeAlertmanagers"]) == 1


def test_scaling_reaches_the_registry_and_nginx(stack):
    # The shipped limits of the Kong file are for one consumer's browser, not for a load of 40 requests a second.
    file = stack.secrets / "kong.yml"
    text = file.read_text()
    assert "minute: 100\n" in text
    mode = file.stat().st_mode
    file.chmod(0o644)
    file.write_text(re.sub(r"(minute|hour|day): 10+\n", r"\1: 100000000\n", text))
    file.chmod(mode)

    begun = time.monotonic()
    counts = [f"{name}=2" for name in (*PLATFORM, *DEMO)]
    stack.compose("up", "-d", "--no-build", "--no-deps", "--no-recreate", *sum((["--scale", count] for count in counts), []), *PLATFORM, *DEMO)
    for service in (*PLATFORM, *DEMO):
        until(lambda service=service: stack.healthy(service, 2), 90, f"two replicas of {service} are healthy", every=0.3)
        until(lambda service=service: len(stack.instances(service)) == 2, 30, f"the registry has two of {service}")
    until(lambda: len(stack.upstreams()) == 2, 30, "nginx knows both gateways")
    assert stack.upstreams() == stack.instances("gateway")
    until(lambda: int(stack.front(headers=stack.consumer())[0].headers["X-RateLimit-Limit-Minute"]) > 100, 10, "the new Kong file is in force")
    stack.tell(f"scale: six services to two replicas each, in the registry and in nginx after {time.monotonic() - begun:.0f} s")


@pytest.mark.parametrize("service", [*PLATFORM, "user-service", "consul-1", "redis", "rabbitmq", "postgres"])
def test_a_crash_costs_no_request_and_is_mended(stack, service):
    # Every client has a request or a connection in flight at the moment of the crash; at least a second of load before it.
    victim = stack.containers(service)[0]
    with stack.load() as load:
        until(lambda: load.sent > 40, 30, "load before the crash")
        begun = time.monotonic()
        stack.crash(victim)
        until(lambda: stack.engine.inspect(victim["Id"])[0]["State"]["Pid"] not in (0, victim["State"]["Pid"]), 60, f"{service} is started again")
        until(lambda: stack.healthy(service), 60, f"{service} is healthy again", every=0.3)
        if service in (*PLATFORM, *DEMO):
            until(lambda: len(stack.instances(service)) == 2, 60, f"the registry has both of {service} again", every=0.3)
        mended = time.monotonic() - begun
    stack.tell(load.verdict(f"crash of {service}, mended after {mended:.1f} s"))


def test_a_killed_gateway_is_replaced_by_the_other_until_it_is_started_again(stack):
    victim, other = stack.containers("gateway")
    with stack.load() as load:
        until(lambda: load.sent > 40, 30, "load before the kill")
        begun = time.monotonic()
        stack.engine.docker("kill", victim["Id"])
        # The aggregator finds it: two failed probes 10 s apart at most. Nginx needs no such news to go on.
        until(lambda: len(stack.instances("gateway")) == 1, 60, "the registry has one gateway", every=0.3)
        found = time.monotonic() - begun
        until(lambda: len(stack.upstreams()) == 1, 20, "nginx knows one gateway", every=0.3)
        stack.engine.docker("start", victim["Id"])
        until(lambda: stack.healthy("gateway", 2), 60, "both gateways are healthy", every=0.3)
        until(lambda: len(stack.upstreams()) == 2, 60, "nginx knows both gateways again", every=0.3)
    stack.tell(load.verdict(f"docker kill of a gateway, out of the registry after {found:.1f} s"))


@pytest.mark.parametrize("service", [*PLATFORM, "user-service"])
def test_a_rolling_restart_costs_no_request(stack, service):
    before = {one["Id"] for one in stack.containers(service)}
    with stack.load() as load:
        until(lambda: load.sent > 40, 30, "load before the restart")
        begun = time.monotonic()
        stack.script("roll.sh", service)
        took = time.monotonic() - begun
        after = {one["Id"] for one in stack.containers(service)}
        assert len(after) == 2 and not after & before
        until(lambda: len(stack.instances(service)) == 2, 60, f"the registry has the new ones of {service}", every=0.3)
        if service == "gateway":
            until(lambda: stack.upstreams() == stack.instances("gateway"), 30, "nginx knows the new gateways")
    stack.tell(load.verdict(f"rolling restart of {service} in {took:.0f} s"))


def test_the_stores_are_restarted_one_after_the_other(stack):
    with stack.load() as load:
        until(lambda: load.sent > 40, 30, "load before the restarts")
        for service in (*CONSUL, "redis"):
            [one] = stack.containers(service)
            stack.engine.docker("restart", "--time", "15", one["Id"])
            until(lambda service=service: stack.healthy(service), 60, f"{service} is healthy again", every=0.3)
    stack.tell(load.verdict("restarts of the three Consul servers and Redis"))
    # What was there is there.
    status, answer = stack.call("config-service", 8520, "/api/v1/config/shop/dev/greeting", stack.token("config:read"))
    assert status == 200, answer
