"""The figures that the platform promises, measured on the running programs, with a report.

| figure                                                     | bar            |
| start of all four services, until ready                    | 30 s           |
| discovery of a service, p99 at ten times the base load     | 100 ms         |
| response through the gateway, p99 at ten times the load    | 50 ms          |
| failed requests at that load                               | 0              |
| processor use of the platform at that load                 | 70 % of all cores |
| a dead instance is out of discovery (failover)             | 30 s           |
| failed requests through the gateway while it dies          | 0              |
| the death shows in Prometheus, with our own intervals      | 60 s           |

Base load: 50 requests a second through the gateway and 5 discoveries a second, from one client machine. The platform is the four
services as processes of their own over a real Consul, with three instances of a demo service. The programs are those of
PLINTH_BIN_DIR: a report for publication wants the optimised ones.
"""

import http.client
import json
import os
import re
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support import monitoring
from support.monitoring import Program, get, get_json, plinth_program, tool, until
from support.ports import free_port

BASE = {"gateway": 50, "discovery": 5}
TIMES = 10
SECONDS = 15
SERVICES = ("registry-service", "config-service", "health-aggregator", "gateway")
KONG = """
_format_version: "3.0"
services:
- name: user-service
  host: user-service.service.consul
  retries: 5
  routes:
  - name: users
    paths: [/api/v1/users]
    strip_path: false
plugins:
- name: correlation-id
- name: cors
- name: rate-limiting
  config: {policy: local, minute: 1000000}
- name: prometheus
"""


class Sampler(threading.Thread):
    """One client that asks over one connection, again and again, and notes times and failures."""

    def __init__(self, url: str, pause: float):
        super().__init__(daemon=True)
        self.host, self.path = re.match(r"http://([^/]+)(/.*)", url).groups()
        self.pause, self.times, self.failures, self.ended = pause, [], [], threading.Event()

    def run(self):
        connection = http.client.HTTPConnection(self.host, timeout=10)
        while not self.ended.wait(self.pause):
            began = time.perf_counter()
            try:
                connection.request("GET", self.path)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.times.append(time.perf_counter() - began)

    def stop(self) -> "Sampler":
        self.ended.set()
        self.join(15)
        return self

    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[98] * 1000


class Platform:
    def __init__(self, folder: Path):
        self.folder, self.programs, self.ports = folder, {}, {}

    def port(self, name: str) -> int:
        return self.ports.setdefault(name, free_port())

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port(name)}"

    def run(self, name: str, *args: str) -> Program:
        self.programs[name] = Program(name, list(args), self.folder / f"{name}.log").start()
        return self.programs[name]

    def consul(self):
        binary = os.environ.get("PLINTH_TEST_CONSUL_BIN") or tool("consul", "~/.cache/plinth/tools/consul-1.8.7/usr/bin/consul")
        ports = {name: free_port() for name in ("server", "serf_lan", "serf_wan")}
        settings = self.folder / "consul.json"
        settings.write_text(json.dumps({
            "server": True, "bootstrap_expect": 1, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": str(self.folder / "consul"), "limits": {"http_max_conns_per_client": 2000},
            "ports": {"http": self.port("consul"), "dns": -1, "grpc": -1, **ports},
        }))
        self.run("consul", binary, "agent", f"-config-file={settings}")
        until(lambda: get(self.url("consul") + "/v1/status/leader") != b'""', "Consul has a leader", 30)

    def services(self):
        common = ["--consul-address", self.url("consul"), "--shutdown-drain-delay", "0"]
        kong = self.folder / "kong.yml"
        kong.write_text(KONG)
        for name in SERVICES[:3]:
            own = ["--data-dir", str(self.folder / "config")] if name == "config-service" else []
            listen = f"127.0.0.1:{self.port(name)}"
            status = f"127.0.0.1:{self.port(name + '-status')}"
            self.run(name, plinth_program(name), "--listen", listen, "--status-listen", status, *common, *own)
        self.run(
            "gateway", plinth_program("gateway"), "--config", str(kong), "--admin-listen", "off", *common,
            "--proxy-listen", f"127.0.0.1:{self.port('gateway')}", "--status-listen", f"127.0.0.1:{self.port('gateway-status')}",
        )

    def ready(self) -> bool:
        return all(get(f"{self.url(name + '-status')}/health/ready") for name in SERVICES)

    def demo(self, index: int):
        self.run(
            f"user-{index}", plinth_program("demo-service"), "--name", "user-service", "--id", f"user-{index}",
            "--listen", "127.0.0.1:0", "--consul-address", self.url("consul"),
        )

    def passing(self) -> int:
        found = get_json(f"{self.url('registry-service')}/api/v1/services/discover/user-service?healthy_only=true")
        return len(found["services"])

    def processor_seconds(self) -> float:
        total = 0
        for name in (*SERVICES, "consul"):
            fields = Path(f"/proc/{self.programs[name].process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def end(self):
        for program in reversed(self.programs.values()):
            with suppress(ProcessLookupError):
                program.kill()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    platform = Platform(tmp_path_factory.mktemp("acceptance"))
    try:
        yield platform
    finally:
        platform.end()


def load(url: str, rate: int) -> subprocess.Popen:
    """A constant rate for SECONDS over one connection for each ten requests a second."""
    clients = max(1, rate // 10)
    arguments = ["--h1", "-D", str(SECONDS), "-c", str(clients), "-t", "1", "--rps", str(rate / clients), url]
    return subprocess.Popen([tool("h2load"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(process: subprocess.Popen) -> tuple[int, int]:
    """Answers of 2xx, and everything else."""
    text, _ = process.communicate(timeout=SECONDS + 30)
    found = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", text)
    assert found, text
    good = int(re.search(r"status codes: (\d+) 2xx", text).group(1))
    return good, int(found.group(2)) - good + int(found.group(4)) + int(found.group(5))


def test_the_platform_keeps_what_it_promises(platform, capsys):
    report = []

    def figure(name: str, value: float, unit: str, bar: float):
        report.append((name, value, unit, bar))

    platform.consul()
    began = time.monotonic()
    platform.services()
    until(platform.ready, "all four services are ready", 30, every=0.02)
    figure("start of all four services, until ready", time.monotonic() - began, "s", 30)
    for index in (1, 2, 3):
        platform.demo(index)
    until(lambda: platform.passing() == 3, "three instances pass", 20)
    users = f"{platform.url('gateway')}/api/v1/users/1"
    discover = f"{platform.url('registry-service')}/api/v1/services/discover/user-service?healthy_only=true"
    until(lambda: get(users), "the route answers", 10)

    # At ten times the base load
    samplers = [Sampler(users, 0.02), Sampler(discover, 0.02)]
    used, began = platform.processor_seconds(), time.monotonic()
    loads = [load(users, BASE["gateway"] * TIMES), load(discover, BASE["discovery"] * TIMES)]
    for sampler in samplers:
        sampler.start()
    outcomes = [outcome(process) for process in loads]
    took = time.monotonic() - began
    used = (platform.processor_seconds() - used) / took / os.cpu_count() * 100
    through, found = (sampler.stop() for sampler in samplers)
    rates = [good / SECONDS for good, _ in outcomes]
    for rate, wanted in zip(rates, BASE.values()):
        assert rate > wanted * TIMES * 0.9, f"the load was not reached: {rates} requests a second"
    figure("discovery, p99", found.p99(), "ms", 100)
    figure("response through the gateway, p99", through.p99(), "ms", 50)
    failed = sum(bad for _, bad in outcomes) + len(through.failures) + len(found.failures)
    figure("failed requests at that load", failed, "", 0)
    figure("processor use of the platform at that load", used, "%", 70)

    # An instance dies, and Prometheus watches with our own intervals
    prometheus = free_port()
    rendered = monitoring.render_prometheus(
        platform.folder / "prometheus", platform.url("consul"), "127.0.0.1:9", f"127.0.0.1:{prometheus}", short=False
    )
    platform.run(
        "prometheus", monitoring.prometheus_with_consul(), f"--config.file={rendered}",
        f"--storage.tsdb.path={platform.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus}",
    )

    def deaths() -> float:
        answer = get_json(f"http://127.0.0.1:{prometheus}/api/v1/query", query='sum(health_transitions_total{to="critical"})')
        series = answer["data"]["result"]
        return float(series[0]["value"][1]) if series else -1

    before = until(lambda: deaths() + 1, "Prometheus has the aggregator's figures", 60, every=0.5) - 1
    through = Sampler(users, 0.005)
    through.start()
    began = time.monotonic()
    platform.programs["user-1"].kill()
    until(lambda: platform.passing() == 2, "the dead instance is out of discovery", 30, every=0.02)
    figure("a dead instance is out of discovery", time.monotonic() - began, "s", 30)
    until(lambda: deaths() > before, "the death shows in Prometheus", 60, every=0.2)
    figure("the death shows in Prometheus", time.monotonic() - began, "s", 60)
    through.stop()
    assert len(through.times) > 100
    figure("failed requests through the gateway while it dies", len(through.failures), "", 0)

    text = table(report)
    folder = Path(os.environ["PLINTH_BIN_DIR"]) / "reports"
    folder.mkdir(exist_ok=True)
    (folder / "acceptance.md").write_text(text)
    with capsys.disabled():
        print("\n" + text)
    missed = [name for name, value, _, bar in report if value > bar]
    assert not missed, f"missed: {', '.join(missed)}\n{text}\n{through.failures[:5]}"


def table(report) -> str:
    lines = [
        f"Base load {BASE['gateway']} requests/s through the gateway and {BASE['discovery']} discoveries/s; measured at {TIMES} times that for"
        f" {SECONDS} s, on {os.cpu_count()} cores.",
        "",
        "| figure | measured | bar |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {value:.3g} {unit} | {bar} {unit} |" for name, value, unit, bar in report]
    return "\n".join(lines) + "\n"
