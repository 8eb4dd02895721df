"""Prometheus and Alertmanager with our configuration watch a real platform; each alert is made to fire by its real cause.

The platform: the five programs as processes on loopback, with real Consul, PostgreSQL, RabbitMQ and Redis. Two Prometheus run:
one with our times, which shows the targets and how fresh figures are, and one with times of seconds in place of minutes
(monitoring.shorten), which fires the alerts. Rules, thresholds and labels are the same in both.

The tests of this file stand in order and share the platform.
"""

import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import monitoring
from support.monitoring import Program, Receiver, get, get_json, tool, until
from support.ports import free_port

# Alerts that this test does not cause, with the reason. promtool covers them.
NOT_CAUSED = {
    "PlinthVersionSkew": "needs two versions of the programs; there is one",
}
# Panels that may be empty here, with the reason.
EMPTY: dict[tuple[str, str], str] = {}
# Once what it is about has happened, an alert must be at the receiver within this many seconds (times are shortened to 1-2 s, windows to
# 15-30 s).
SOON = 40


# Parts of the platform


class Upstream:
    """Answers as the path says: /fail 500, /slow after 1.5 s, else 200. While `well` is false, /health is 500."""

    def __init__(self):
        self.well = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path.startswith("/slow"):
                    time.sleep(1.5)
                bad = self.path.startswith("/fail") or (self.path.startswith("/health") and not outer.well)
                body = b"{}"
                self.send_response(500 if bad else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class ConsulProxy:
    """Between one process and Consul. `stalls` names requests that get no answer, `cuts` those whose connection is closed."""

    def __init__(self, consul: int):
        self.stalls = lambda path: False
        self.cuts = lambda path: False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def relay(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if outer.cuts(self.path):
                    self.close_connection = True
                    return
                while outer.stalls(self.path):
                    time.sleep(0.5)
                upstream = http.client.HTTPConnection("127.0.0.1", consul, timeout=120)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                    upstream.request(self.command, self.path, body or None, headers)
                    answer = upstream.getresponse()
                    text = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in ("content-length", "transfer-encoding", "connection", "content-encoding"):
                            self.send_header(name, value)
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:
                    self.close_connection = True
                finally:
                    upstream.close()

            do_GET = do_PUT = do_POST = do_DELETE = relay

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def unprivileged(folder: Path) -> dict:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid}


class World:
    """Everything that runs. Programs are started by name and ended with the test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.programs: dict[str, Program] = {}
        self.upstream = Upstream()
        self.receiver = Receiver()
        self.ports: dict[str, int] = {}
        self.started_at = time.time()

    def port(self, name: str) -> int:
        return self.ports.setdefault(name, free_port())

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port(name)}"

    def run(self, name: str, args: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> Program:
        self.programs[name] = Program(name, args, self.folder / f"{name}.log", env or {}, cwd).start()
        return self.programs[name]

    def again(self, name: str) -> Program:
        return self.programs[name].start()

    def end(self):
        for program in reversed(self.programs.values()):
            with suppress(ProcessLookupError):
                program.kill()

    # The servers that the platform stands on

    def consul(self):
        binary = os.environ.get("PLINTH_TEST_CONSUL_BIN") or tool("consul", "~/.cache/plinth/tools/consul-1.8.7/usr/bin/consul")
        ports = ", ".join(f"{name} = {self.port('consul-' + name)}" for name in ("server", "serf_lan", "serf_wan"))
        self.run(
            "consul",
            [binary, "agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-client=127.0.0.1", f"-data-dir={self.folder / 'consul'}"]
            + ["-hcl", f"ports {{ http = {self.port('consul')}, dns = -1, grpc = -1, https = -1, {ports} }}"]
            + ["-hcl", 'disable_update_check = true, log_level = "WARN", performance { raft_multiplier = 1 }, limits { http_max_conns_per_client = 2000 }'.replace(", ", "\n")],
        )
        self.consul_leads()

    def consul_leads(self):
        until(lambda: get_json(self.url("consul") + "/v1/health/service/consul"), "Consul has a leader", 30)

    def postgres(self):
        folder = Path(tempfile.mkdtemp(prefix="plinth-pg-"))
        self.postgres_folder = folder
        as_user = unprivileged(folder)
        bins = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        initdb = tool("initdb", *(str(path / "initdb") for path in bins))
        subprocess.run(
            [initdb, "--auth=trust", "--username=plinth", "--encoding=UTF8", "--no-sync", "-D", str(folder / "data")],
            check=True, capture_output=True, cwd="/", **as_user,
        )
        wrapper = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"] if as_user else []
        server = tool("postgres", *(str(path / "postgres") for path in bins))
        self.run("postgres", wrapper + [server, "-D", str(folder / "data"), "-h", "127.0.0.1", "-k", "", "-p", str(self.port("postgres"))], cwd=Path("/"))
        until(lambda: socket.create_connection(("127.0.0.1", self.port("postgres")), 1).close() is None, "PostgreSQL listens", 30)

    def rabbitmq(self):
        folder = self.folder / "rabbitmq"
        folder.mkdir()
        (folder / "enabled_plugins").write_text("[].\n")
        epmd = self.port("epmd")
        self.rabbit_env = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"plinth{self.port('rabbitmq')}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port("rabbitmq")),
            "RABBITMQ_DIST_PORT": str(self.port("rabbitmq-dist")),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        self.run("epmd", [tool("epmd"), "-address", "127.0.0.1", "-port", str(epmd)])
        # Not the wrapper in /usr/sbin: it insists on the system's own user and data folder.
        self.run("rabbitmq", [tool("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")], self.rabbit_env)

    def rabbit_speaks(self):
        def greets():
            with socket.create_connection(("127.0.0.1", self.port("rabbitmq")), 2) as stream:
                stream.sendall(b"AMQP\x00\x00\x09\x01")
                return stream.recv(1) == b"\x01"

        until(greets, "RabbitMQ speaks AMQP", 90, 0.5)

    def redis(self):
        self.run("redis", [tool("redis-server"), "--port", str(self.port("redis")), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)])

    # The services

    def service(self, program: str, name: str, prefix: str, **settings: str) -> Program:
        env = {
            "STATUS_LISTEN": f"127.0.0.1:{self.port(name + '-status')}",
            "CONSUL__ADDRESS": self.url("consul"),
            "AUTH__DISABLED": "true",
            "SHUTDOWN__DRAIN_DELAY": "1s",
            "LOG__FORMAT": "json",
        }
        if program != "gateway":
            env["LISTEN"] = f"127.0.0.1:{self.port(name)}"
        env |= settings
        return self.run(name, [monitoring.plinth_program(program)], {f"PLINTH_{prefix}__{key}": value for key, value in env.items() if value})

    def registry(self, name: str, **settings: str):
        return self.service("registry-service", name, "REGISTRY", **settings)

    def gateway(self, name: str, kong: dict, **settings: str):
        file = self.folder / f"{name}.yml"
        file.write_text(yaml.safe_dump(kong))
        return self.service(
            "gateway", name, "GATEWAY",
            PROXY_LISTEN=f"127.0.0.1:{self.port(name)}", ADMIN_LISTEN=f"127.0.0.1:{self.port(name + '-admin')}", CONFIG=str(file), **settings,
        )

    def configure(self, name: str, kong: dict | str):
        file = self.folder / f"{name}.yml"
        fresh = file.with_suffix(".new")
        fresh.write_text(kong if isinstance(kong, str) else yaml.safe_dump(kong))
        fresh.replace(file)

    # Questions

    def prometheus(self, name: str, short: bool):
        folder = self.folder / name
        itself = f"127.0.0.1:{self.port(name)}"
        config = monitoring.render_prometheus(folder, self.url("consul"), f"127.0.0.1:{self.port('alertmanager')}", itself, short)
        self.run(
            name,
            [monitoring.prometheus_with_consul(), f"--config.file={config}", f"--web.listen-address={itself}", f"--storage.tsdb.path={folder / 'data'}"]
            + (["--rules.alert.resend-delay=5s"] if short else []),
        )
        until(lambda: get(f"http://{itself}/-/ready"), f"{name} is ready", 30)

    def query(self, expression: str, name: str = "prometheus") -> list[dict]:
        answer = get_json(self.url(name) + "/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def value(self, expression: str, name: str = "prometheus") -> float | None:
        found = self.query(expression, name)
        return float(found[0]["value"][1]) if found else None

    def firing(self, name: str = "prometheus") -> set[str]:
        found = get_json(self.url(name) + "/api/v1/alerts")["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def received(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.receiver.alerts() if alert["status"] == "firing"}

    def expect(self, *names: str, seconds: float = SOON, busy=None):
        """Waits until all of these alerts are at the webhook; `busy` is done again and again meanwhile."""
        start = time.monotonic()

        def there():
            if busy:
                busy()
            return set(names) <= self.received()

        try:
            until(there, "alerts", seconds, 0.2)
        except AssertionError:
            state = {alert["labels"]["alertname"]: alert["state"] for alert in get_json(self.url("prometheus") + "/api/v1/alerts")["data"]["alerts"]}
            missing = set(names) - self.received()
            pytest.fail(f"not at the receiver within {seconds} s: {sorted(missing)}; Prometheus has {state}")
        print(f"{', '.join(names)}: {time.monotonic() - start:.1f} s")

    # Requests

    def ask(self, path: str, gateway: str = "g1") -> int:
        try:
            with urllib.request.urlopen(self.url(gateway) + path, timeout=10) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    def asks(self, path: str, times: int, gateway: str = "g1") -> set[int]:
        return {self.ask(path, gateway) for _ in range(times)}

    def call(self, where: str, method: str, path: str, body=None, headers: dict[str, str] | None = None) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url(where) + path, data, {"content-type": "application/json", **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    def register(self, service_id: str, where: str = "r1", name: str = "dummy", headers: dict[str, str] | None = None, **more) -> int:
        body = {"service_id": service_id, "service_name": name, "address": "127.0.0.1", "port": self.upstream.port, **more}
        return self.call(where, "POST", "/api/v1/services/register", body, headers)


def kong(world: World, *extra: str) -> dict:
    """The gateway's configuration: always an echo and a limited route, and what a test adds."""
    upstream = f"http://127.0.0.1:{world.upstream.port}"

    def service(name: str, url: str, **more) -> dict:
        return {"name": name, "url": url, "routes": [{"name": name, "paths": [f"/{name}"], "strip_path": False}], **more}

    limits = {"minute": 100000, "policy": "redis", "fault_tolerant": True, "redis": {"host": "127.0.0.1", "port": world.port("redis")}}
    services = [
        service("echo", upstream),
        service("limited", upstream, plugins=[{"name": "rate-limiting", "config": limits}]),
    ]
    plugins = [
        {"name": "prometheus", "config": {name: True for name in ("status_code_metrics", "latency_metrics", "bandwidth_metrics", "upstream_health_metrics", "per_consumer")}},
        {"name": "file-log", "config": {"path": "/dev/full" if "full" in extra else str(world.folder / "access.log")}},
        {"name": "http-log", "config": {"http_endpoint": f"http://{world.entries.address if 'deaf' not in extra else '127.0.0.1:9'}/entries", "queue": {"max_retry_time": 5, "initial_retry_delay": 0.5}}},
    ]
    upstreams = [{"name": "pair", "targets": [{"target": f"127.0.0.1:{world.upstream.port}"}]}]
    services.append(service("pair", "http://pair"))
    if "ghost" in extra:
        services.append(service("ghost", "http://ghost.service.consul:80"))
    if "failing" in extra:
        services += [service("fail", upstream), service("slow", upstream)]
    if "halves" in extra:
        upstreams[0]["targets"].append({"target": f"127.0.0.1:{world.port('nobody')}"})
    return {"_format_version": "3.0", "services": services, "plugins": plugins, "upstreams": upstreams}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("monitoring"))
    made.entries = Receiver()
    try:
        made.rabbitmq()
        made.consul()
        made.postgres()
        made.redis()
        made.rabbit_speaks()
        key = made.folder / "key.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
        key.chmod(0o600)
        subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(made.folder / "key.pub.pem")], check=True, capture_output=True)
        made.key = key
        made.stalling, made.cutting = ConsulProxy(made.port("consul")), ConsulProxy(made.port("consul"))
        made.registry("r1", AUTH__DISABLED="", AUTH__KEY_FILE=str(made.folder / "key.pub.pem"))
        # Its Consul will stop answering blocking queries.
        made.registry("r2", CONSUL__ADDRESS=made.stalling.url, WRITES__SETTLE="2s")
        made.service(
            "config-service", "c1", "CONFIG",
            DATABASE__URL=f"postgres://plinth@127.0.0.1:{made.port('postgres')}/postgres",
            EVENTS__URL=f"amqp://guest:guest@127.0.0.1:{made.port('rabbitmq')}/%2f", RECONCILE__INTERVAL="5s",
        )
        made.service("health-aggregator", "h1", "HEALTH")
        made.gateway("g1", kong(made), HANDOVER_TIMEOUT="5s", **certificate(made, "g1", 90))
        made.gateway("g2", kong(made), WORKERS="1", CONSUL__ADDRESS=made.cutting.url, **certificate(made, "g2", 90))
        for name in ("r1", "r2", "c1", "h1", "g1", "g2"):
            until(lambda name=name: get(f"http://127.0.0.1:{made.port(name + '-status')}/health/ready"), f"{name} is ready: {made.programs[name].tail(5)}", 30)
        config = monitoring.render_alertmanager(made.folder / "alertmanager", f"http://{made.receiver.address}")
        made.run(
            "alertmanager",
            [tool("prometheus-alertmanager"), f"--config.file={config}", f"--storage.path={made.folder / 'alertmanager' / 'data'}"]
            + [f"--web.listen-address=127.0.0.1:{made.port('alertmanager')}", "--cluster.listen-address="],
        )
        # The alertmanager job of the configuration is scraped, too.
        until(lambda: get(made.url("alertmanager") + "/-/ready"), "Alertmanager is ready", 30)
        made.prometheus("prometheus", short=True)
        made.prometheus("prometheus-as-is", short=False)
        yield made
    finally:
        made.end()
        if hasattr(made, "postgres_folder"):
            shutil.rmtree(made.postgres_folder, ignore_errors=True)


def certificate(world: World, name: str, days: int) -> dict[str, str]:
    """Settings of a TLS listener whose certificate ends in so many days."""
    cert, key = world.folder / f"{name}.crt", world.folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}.example", "-addext", f"subjectAltName=DNS:{name}.example"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", str(days)]
    subprocess.run([*made, *subject, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return {"PROXY_TLS_LISTEN": f"127.0.0.1:{world.port(name + '-tls')}", "PROXY_TLS_CERT": str(cert), "PROXY_TLS_KEY": str(key)}


def identity(world: World) -> dict[str, str]:
    """Settings of a service with an identity from files."""
    folder = world.folder / "identity"
    folder.mkdir()

    def openssl(*args: str):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=folder)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *curve, "-subj", "/CN=registry", "-keyout", "leaf.key", "-out", "leaf.csr")
    (folder / "names").write_text("subjectAltName=URI:spiffe://plinth.test/ns/default/dc/dc1/svc/registry-service,DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names", "-out", "leaf.crt")
    return {"MTLS__SOURCE": "files", "MTLS__CERT": str(folder / "leaf.crt"), "MTLS__KEY": str(folder / "leaf.key"), "MTLS__CA": str(folder / "ca.crt")}


def token(world: World, subject: str) -> dict[str, str]:
    made = subprocess.run(
        [monitoring.plinth_program("plinth"), "token", "--key", str(world.key), "--scope", "services:write", "--scope", "services:read", "--subject", subject],
        check=True, capture_output=True, text=True,
    )
    return {"authorization": f"Bearer {made.stdout.strip()}"}


INSTANCES = {"registry-service": 2, "config-service": 1, "health-aggregator": 1, "gateway": 2}


def up(world: World, name: str) -> dict[str, int]:
    return {found["metric"]["job"]: int(found["value"][1]) for found in world.query('sum by (job) (up{job!~"prometheus|alertmanager"})', name)}


@pytest.mark.parametrize("name", ["prometheus", "prometheus-as-is"])
def test_01_targets_are_up(world, name):
    until(lambda: up(world, name) == INSTANCES, f"all services are up in {name}: {up(world, name)}", 60, 0.5)
    targets = get_json(world.url(name) + "/api/v1/targets")["data"]["activeTargets"]
    jobs = {target["labels"]["job"] for target in targets}
    assert jobs == set(INSTANCES) | {"prometheus", "alertmanager"}
    for target in targets:
        if target["labels"]["job"] in INSTANCES:
            assert target["labels"]["instance"].startswith(target["labels"]["job"]), target["labels"]
            assert target["labels"]["datacenter"] == "dc1"


def test_02_nothing_fires_but_the_watchdog(world):
    world.expect("PlinthWatchdog")
    assert world.call("g1-admin", "GET", "/status") == 200
    # Long enough for whatever would fire in a platform that is well.
    quiet = time.monotonic() + 10

    def rest():
        for path in ("/echo", "/limited", "/pair"):
            assert world.ask(path) == 200
        # The gateway that is only there counts as upstream of nobody: ask it too, so that its figures are there.
        assert world.ask("/echo", "g2") == 200
        # Both tell the truth on a machine that is busy with other things.
        assert world.firing() <= {"PlinthWatchdog", "PlinthGatewaySlowPolls", "PlinthGatewayOverheadHigh"}, world.firing()
        return time.monotonic() > quiet

    until(rest, "a quiet time", 30, 0.3)
    assert "PlinthWatchdog" in {alert["labels"]["alertname"] for alert in world.receiver.alerts() if alert["receiver"] == "watchdog"}


def test_03_figures_are_fresh(world):
    """With our own times: from a request to its figure in Prometheus, and from a registration to its target."""
    name = "prometheus-as-is"
    figure = 'sum(gateway_requests_total{job="gateway"})'
    until(lambda: world.value(figure, name) is not None, "the first scrape", 40)
    worst = 0.0
    for _ in range(2):
        page = get(f"http://127.0.0.1:{world.port('g1-status')}/metrics").decode()
        before = float(re.search(r"^gateway_requests_total\{.*\} (\d+)", page, re.M).group(1))
        assert world.ask("/echo") == 200
        start = time.monotonic()
        instance = f'gateway_requests_total{{instance=~".*{world.port("g1")}"}}'
        until(lambda: (world.value(instance, name) or 0) > before, "the request is in Prometheus", 60, 0.2)
        worst = max(worst, time.monotonic() - start)
    start = time.monotonic()
    world.registry("r3")
    until(lambda: up(world, name).get("registry-service") == 3, "a new instance is scraped", 60, 0.2)
    discovered = time.monotonic() - start
    world.programs["r3"].stop()
    print(f"freshness: a request's figure after {worst:.1f} s at most, a new instance's after {discovered:.1f} s")
    assert worst < 60 and discovered < 60


def test_04_late_causes_begin(world):
    """What needs a minute or two to be an alert begins now, and is looked for at the end."""
    world.stalling.stalls = lambda path: path.startswith(("/v1/health/service", "/v1/health/state", "/v1/catalog")) or "recurse" in path
    # RabbitMQ refuses events: a queue at its limit that rejects further ones.
    script = (
        'Q = rabbit_misc:r(<<"/">>, queue, <<"full">>), '
        '{new, _} = rabbit_amqqueue:declare(Q, true, false, [{<<"x-max-length">>, long, 1}, {<<"x-overflow">>, longstr, <<"reject-publish">>}], none, <<"guest">>), '
        'ok = rabbit_binding:add({binding, rabbit_misc:r(<<"/">>, exchange, <<"plinth.events">>), <<"#">>, Q, []}, <<"guest">>).'
    )
    done = subprocess.run(
        [tool("rabbitmqctl", "/usr/lib/rabbitmq/bin/rabbitmqctl"), "--node", world.rabbit_env["RABBITMQ_NODENAME"], "eval", script],
        env={**os.environ, **world.rabbit_env}, capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(4):
        assert world.call("c1", "PUT", f"/api/v1/config/shop/dev/key{number}", {"value": number}) in (200, 201, 202)
    world.expect("PlinthOutboxRefused")


def test_05_upstreams_and_logs(world):
    world.configure("g1", kong(world, "ghost", "failing", "halves", "full", "deaf"))
    until(lambda: world.ask("/fail") == 500, "the configuration is applied", 20)

    def busy():
        world.asks("/pair", 5)
        world.asks("/fail", 3)
        assert world.ask("/ghost") == 503

    world.expect(
        "PlinthUpstreamDown", "PlinthUpstreamErrors", "PlinthErrorBudgetBurnFast", "PlinthGatewayRetriesHigh", "PlinthLogEntriesLost", "PlinthExportFailing", busy=busy
    )
    waiting = [threading.Thread(target=lambda: world.asks("/slow", 6)) for _ in range(8)]
    for thread in waiting:
        thread.start()
    world.expect("PlinthGatewayLatencyHigh")
    for thread in waiting:
        thread.join()
    world.configure("g1", kong(world, "ghost"))


def test_06_redis(world):
    world.programs["redis"].kill()
    world.expect("PlinthRedisUnreachable", busy=lambda: world.ask("/limited"))
    world.again("redis")
    # It is back, and what was decided without it is still in the window.
    world.expect("PlinthRateLimitingDegraded")


def test_07_error_budget_slowly(world):
    """One fault in 300 requests: too few to wake somebody, too many for the month."""
    connection = http.client.HTTPConnection("127.0.0.1", world.port("g1"), timeout=10)

    def burst():
        for number in range(150):
            path = "/ghost" if world.slow_count % 300 == 299 else "/echo"
            world.slow_count += 1
            connection.request("GET", path)
            connection.getresponse().read()

    world.slow_count = 0
    world.expect("PlinthErrorBudgetBurnSlow", busy=burst, seconds=90)
    connection.close()


def test_08_reload(world):
    world.configure("g1", "_format_version: '3.0'\nservices: [{name: broken}]\n")
    world.expect("PlinthGatewayReloadFailed")
    # A successor that cannot use the configuration does not take over.
    world.programs["g1"].signal(signal.SIGUSR2)
    world.expect("PlinthHandoverFailed")
    world.configure("g1", kong(world))


def test_09_certificates(world):
    """One gateway starts with a certificate of ten days, another with one of a day."""
    for name, days in (("g1", 10), ("g2", 1)):
        certificate(world, name, days)
        world.programs[name].stop()
        world.again(name)
    world.expect("PlinthCertificateExpiresSoon", "PlinthCertificateExpiresNow")

    def suppressed():
        found = get_json(world.url("alertmanager") + "/api/v2/alerts", filter='alertname="PlinthCertificateExpiresSoon"')
        return {str(world.port(name)): alert["status"]["state"] for alert in found for name in ("g1", "g2") if alert["labels"]["instance"].endswith(str(world.port(name)))}

    wanted = {str(world.port("g1")): "active", str(world.port("g2")): "suppressed"}
    until(lambda: suppressed() == wanted, f"the louder alert keeps the other quiet: {suppressed()}", 20)
    for name in ("g1", "g2"):
        certificate(world, name, 90)
        world.programs[name].stop()
        world.again(name)


def test_09_strangers(world):
    """A service with mutual TLS, and callers without a certificate."""
    world.registry("r4", **identity(world))
    until(lambda: get(f"http://127.0.0.1:{world.port('r4-status')}/health/live"), f"r4 runs: {world.programs['r4'].tail(5)}", 20)
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE

    def busy():
        with suppress(OSError), socket.create_connection(("127.0.0.1", world.port("r4")), 2) as plain, careless.wrap_socket(plain) as stream:
            stream.sendall(b"GET /api/v1/services HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert not stream.recv(100), "a stranger was served"

    world.expect("PlinthMtlsRejections", busy=busy)
    world.programs["r4"].stop()


def test_09_saturation(world):
    done = subprocess.Popen([tool("h2load"), "--h1", "-t1", "-c64", "-D", "20", world.url("g2") + "/nothing"], stdout=subprocess.DEVNULL)
    try:
        world.expect("PlinthGatewaySaturated")
    finally:
        done.kill()
        done.wait()


def test_10_throttling(world):
    """As a processor quota does it: the process stands still for most of each tenth of a second."""
    stop = threading.Event()
    gateway = world.programs["g1"]

    def throttle():
        while not stop.is_set():
            gateway.signal(signal.SIGSTOP)
            time.sleep(0.08)
            gateway.signal(signal.SIGCONT)
            time.sleep(0.02)

    def traffic():
        while not stop.is_set():
            with suppress(OSError):
                world.ask("/limited")

    threads = [threading.Thread(target=throttle)] + [threading.Thread(target=traffic) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        world.expect("PlinthGatewaySlowPolls", "PlinthGatewayOverheadHigh", seconds=60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_11_descriptors(world):
    pid = world.programs["g1"].process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (int(open_now * 1.15), before[1]))
    world.expect("PlinthFileDescriptorsHigh")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_12_registrations(world):
    one, other = token(world, "one"), token(world, "other")
    assert world.register("wanted", headers=one) == 201
    lease = {"check": {"type": "ttl", "ttl": "30s"}}
    assert world.register("leased", headers=one, **lease) == 201
    assert world.call("r1", "PUT", "/api/v1/services/leased/heartbeat", headers=one) == 200
    sessions = get_json(world.url("consul") + "/v1/session/list")
    held = [session["ID"] for session in sessions if session["Node"] == "plinth-leased"]
    assert held, sessions
    for session in held:
        urllib.request.urlopen(urllib.request.Request(world.url("consul") + f"/v1/session/destroy/{session}", method="PUT")).read()

    def busy():
        assert world.register("wanted", headers=other) == 409
        assert world.call("r1", "PUT", "/api/v1/services/leased/heartbeat", headers=one) == 404

    world.expect("PlinthRegistrationConflicts", "PlinthLeasesLost", busy=busy)


def test_13_brake_then_churn(world):
    """Many instances turn bad at once. Alone, the aggregator doubts itself; a second one confirms it. The second one's own findings
    come before it is scraped for the first time, so there are enough for the first one to have three of its own."""
    check = {"type": "http", "path": "/health", "interval": "1s", "timeout": "1s", "deregister_after": "5s"}
    headers = token(world, "one")
    for number in range(30):
        assert world.register(f"dummy-{number}", headers=headers, check=check) == 201
    until(lambda: (world.value("sum(health_owned_targets)") or 0) >= 36, "the aggregator probes them", 30)
    world.upstream.well = False
    world.expect("PlinthBrakeEngaged")
    assert world.value("sum(increase(health_transitions_total{to=\"critical\"}[15s]))") < 3
    world.service("health-aggregator", "h2", "HEALTH")
    world.expect("PlinthInstanceChurn", "PlinthInstanceRemoved", seconds=60)
    world.upstream.well = True


def test_14_aggregators_apart(world):
    """A third one has its only connection taken, so that the others do not reach it; its metrics are there."""
    world.service("health-aggregator", "h3", "HEALTH", SERVER__MAX_CONNECTIONS="1")
    with until(lambda: socket.create_connection(("127.0.0.1", world.port("h3")), 1), "the third aggregator listens"):
        world.expect("PlinthAggregatorsDoNotSeeEachOther", seconds=60)
    world.programs["h3"].kill()


def test_15_configuration_past_the_service(world):
    for key, value in (("shop/dev/past", b'"written into KV"'), ("shop/dev/broken", b"{not json")):
        request = urllib.request.Request(world.url("consul") + f"/v1/kv/plinth/config/{key}", value, method="PUT")
        urllib.request.urlopen(request).read()
    world.expect("PlinthConfigDrift", "PlinthConfigKeysUnusable")


def test_16_late_causes_end(world):
    """Blocking queries of r2 and the list of services of g2 get no answers; RabbitMQ still refuses."""
    world.cutting.cuts = lambda path: path.startswith("/v1/catalog/services")

    def busy():
        world.register(f"unsettled-{time.monotonic_ns()}", where="r2")

    world.expect("PlinthRegistryWritesUnsettled", "PlinthApiLatencyHigh", "PlinthGatewayDiscoveryDisconnected", busy=busy, seconds=60)
    world.expect("PlinthOutboxLag", seconds=60)
    world.expect("PlinthSnapshotStale", "PlinthComponentDown", seconds=120)
    world.cutting.cuts = world.stalling.stalls = lambda path: False


def test_17_instances_die(world):
    def life() -> float:
        return world.value(f'max(process_start_time_seconds{{instance=~".*{world.port("r2")}"}})') or 0

    for _ in range(4):
        # Whole seconds: only a later one is another life, and only a life that was scraped counts.
        last = until(life, "it is scraped", 20)
        until(lambda: time.time() > last + 2, "the next life can be told from the last", 5)
        world.programs["r2"].kill()
        world.again("r2")
        until(lambda: life() > last, "it is scraped again", 20)
    world.expect("PlinthRestartLoop")
    world.programs["r2"].kill()
    world.programs["c1"].kill()
    world.expect("PlinthTargetDown", "PlinthServiceDown")
    world.again("r2")
    world.again("c1")


def test_18_rabbitmq_and_the_database(world):
    until(lambda: world.value('min(plinth_component_up{component=~"rabbitmq|sql|database"})') == 1, "the config-service is well again", 30)
    world.programs["rabbitmq"].kill()
    world.programs["postgres"].kill()
    world.expect("PlinthRabbitmqUnreachable", "PlinthDatabaseUnreachable", busy=lambda: world.call("c1", "PUT", "/api/v1/config/shop/dev/key0", {"value": time.time()}))


def test_19_consul(world):
    headers = token(world, "one")
    check = {"type": "http", "path": "/health", "interval": "1s", "timeout": "1s", "deregister_after": "0s"}
    probed = world.value("sum(health_owned_targets)") or 0
    world.register("last", headers=headers, check=check)
    until(lambda: (world.value("sum(health_owned_targets)") or 0) > probed, "it is probed", 20)
    world.programs["consul"].kill()
    world.upstream.well = False

    def busy():
        world.register("never", headers=headers)

    world.expect("PlinthConsulUnreachable", busy=busy)
    until(lambda: (world.value("sum(increase(health_write_failures_total[15s]))") or 0) > 0, "changes cannot be written", 30, 0.5)
    for _ in range(4):
        busy()
    world.again("consul")
    # Consul is back; what failed meanwhile is still in the window.
    world.expect("PlinthRegistrationsFailing", "PlinthHealthWritesFailing")
    world.upstream.well = True


def test_20_monitoring_itself(world):
    rules = world.folder / "prometheus" / "rules"
    prometheus = world.programs["prometheus"]
    (rules / "zz_broken.yml").write_text("groups: [{name: broken, rules: [{record: x, expr: 'up * on () up'}]}]\n")
    prometheus.signal(signal.SIGHUP)
    world.expect("PlinthRuleEvaluationFailing")
    (rules / "zz_broken.yml").write_text("groups: nonsense\n")
    prometheus.signal(signal.SIGHUP)
    world.expect("PlinthPrometheusReloadFailed")
    (rules / "zz_broken.yml").unlink()
    prometheus.signal(signal.SIGHUP)
    world.receiver.status = 400
    until(lambda: (world.value("sum(increase(alertmanager_notifications_failed_total[15s]))") or 0) > 0, "a notification fails", 30)
    world.receiver.status = 200
    world.expect("PlinthNotificationsFailing")
    world.programs["alertmanager"].kill()
    until(lambda: "PlinthAlertsNotDelivered" in world.firing(), "Prometheus cannot deliver", 40)
    world.again("alertmanager")
    world.expect("PlinthAlertsNotDelivered")


def test_21_every_alert_was_caused_and_delivered(world):
    assert world.received() | set(NOT_CAUSED) == set(monitoring.alerts())
    assert not world.received() & set(NOT_CAUSED)


def test_21_texts_and_receivers(world):
    """Every alert came to the receiver of its severity, with texts whose places are filled and a link to its runbook."""
    assert world.receiver.alerts()
    routes = {"critical": "on-call", "warning": "team", "info": "notes", "none": "watchdog"}
    for alert in world.receiver.alerts():
        labels, notes = alert["labels"], alert["annotations"]
        assert alert["receiver"] == routes[labels["severity"]], labels
        assert labels["cluster"] == "plinth" and "runbooks" not in labels
        for text in notes.values():
            assert text and "{{" not in text and "<no value>" not in text and "%!" not in text and "<error" not in text, (labels, text)
        assert notes["runbook_url"] == f"docs/runbooks.md#{labels['alertname'].lower()}"


def panel_queries() -> list[tuple[str, str, str]]:
    found = []
    for path in sorted((monitoring.GRAFANA / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", "15s").replace("[1h]", "[15s]")
                found.append((dashboard["uid"], panel["title"], re.sub(r"\$\w+", ".*", expression)))
    return found


def test_22_every_panel_has_data(world):
    empty = {}
    for uid, title, expression in panel_queries():
        answer = get_json(world.url("prometheus") + "/api/v1/query_range", query=expression, start=world.started_at, end=time.time(), step=5)
        assert answer["status"] == "success", (uid, title, answer)
        if not answer["data"]["result"]:
            empty[(uid, title)] = expression
    assert set(empty) <= set(EMPTY), {where: what for where, what in empty.items() if where not in EMPTY}
