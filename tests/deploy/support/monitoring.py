"""What the monitoring tests share: the documented metrics, rendered configurations, and processes that end with their test."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

ROOT = Path(os.environ.get("PLINTH_ROOT", Path(__file__).resolve().parents[3]))
PROMETHEUS = ROOT / "infrastructure" / "prometheus"
ALERTMANAGER = ROOT / "infrastructure" / "alertmanager"
GRAFANA = ROOT / "infrastructure" / "grafana"
SERVICES = ("registry-service", "config-service", "health-aggregator", "gateway")


# Metrics


@dataclass
class Metric:
    name: str
    type: str
    labels: frozenset[str]
    always: bool = True
    section: str = ""


@functools.cache
def documented() -> dict[str, Metric]:
    """The tables of docs/metrics.md."""
    metrics, section = {}, ""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        if not line.startswith("| `"):
            continue
        name, kind, _unit, labels, present, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        name = name.strip("`")
        assert name not in metrics, f"docs/metrics.md: {name} stands there twice"
        assert meaning, f"docs/metrics.md: {name} has no meaning"
        metrics[name] = Metric(name, kind, frozenset(re.findall(r"`([^`]+)`", labels)), present == "always", section)
    return metrics


def exposed(text: str) -> dict[str, Metric]:
    """The families of a /metrics page. The label that all own metrics carry is left out, as is a histogram's `le`."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    metrics = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        series, labels = re.match(r"([^\s{]+)(?:\{(.*)\})?\s", line).groups()
        name = series if series in kinds else re.sub(r"_(bucket|sum|count)$", "", series)
        assert name in kinds, f"{series} has no TYPE"
        found = set(re.findall(r'([a-zA-Z_]\w*)="(?:\\.|[^"\\])*"', labels or "")) - {"plinth_service", "le"}
        known = metrics.setdefault(name, Metric(name, kinds[name], frozenset(found)))
        known.labels = known.labels | found
    return metrics


@functools.cache
def rule_groups() -> list[dict]:
    return [group for path in sorted((PROMETHEUS / "rules").glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]


def alerts() -> dict[str, dict]:
    return {rule["alert"]: rule for group in rule_groups() for rule in group["rules"] if "alert" in rule}


def recorded() -> set[str]:
    return {rule["record"] for group in rule_groups() for rule in group["rules"] if "record" in rule}


# Tools


def tool(name: str, *places: str) -> str:
    """The program of this name, or a failure that says what is missing."""
    for place in places:
        if Path(place).expanduser().exists():
            return str(Path(place).expanduser())
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    assert found, f"{name} is missing; `cargo xtask deploy` installs what these tests need"
    return found


def plinth_program(name: str) -> str:
    folder = os.environ.get("PLINTH_BIN_DIR")
    assert folder, "PLINTH_BIN_DIR must name the folder with the programs"
    path = Path(folder) / name
    assert path.exists(), f"{path} is missing"
    return str(path)


def prometheus_with_consul() -> str:
    """Debian bookworm's Prometheus is built without consul_sd; bullseye's has it. `cargo xtask test` puts it there."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return tool("prometheus-2.24.1", f"{cache}/plinth/tools/prometheus-2.24.1/usr/bin/prometheus")


def get(url: str, timeout: float = 5, **params) -> bytes:
    if params:
        url += "?" + urllib.parse.urlencode(params)
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read()


def get_json(url: str, timeout: float = 5, **params):
    return json.loads(get(url, timeout, **params))


def until(condition, what: str, seconds: float = 20, every: float = 0.1):
    """Asks until the answer is true, and says what was waited for when it never is. Refused connections count as no."""
    deadline, last = time.monotonic() + seconds, None
    while True:
        try:
            answer = condition()
            if answer:
                return answer
        except (OSError, urllib.error.URLError, json.JSONDecodeError) as error:
            last = error
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}" + (f" ({last})" if last else "")
        time.sleep(every)


@dataclass
class Program:
    """A process with its log."""

    name: str
    args: list[str]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    process: subprocess.Popen | None = None

    def start(self):
        # What an operator has set for the platform is none of the test's.
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("PLINTH_", "CONSUL_", "KONG_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.args, stdout=log, stderr=subprocess.STDOUT, env={**mine, **self.env}, cwd=self.cwd, start_new_session=True
            )
        return self

    def signal(self, number: int):
        self.process.send_signal(number)

    def kill(self):
        self._end(signal.SIGKILL)

    def stop(self):
        self._end(signal.SIGTERM)

    def _end(self, number: int):
        if self.process is None or self.process.poll() is not None:
            return
        # The whole group: some servers are started by a script.
        os.killpg(self.process.pid, signal.SIGCONT)
        os.killpg(self.process.pid, number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


# Configurations, rendered for a test


def render_prometheus(folder: Path, consul: str, alertmanager: str, itself: str, short: bool) -> Path:
    """Our configuration with other addresses; when `short`, with shorter times too. Rules, labels and thresholds stay as they are.

    infrastructure/prometheus/README.md names these substitutions.
    """
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for old, new in (("http://consul:8500", consul), ("alertmanager:9093", alertmanager), ("localhost:9090", itself)):
        assert old in text, f"prometheus.yml: {old} is not there any more"
        text = text.replace(old, new)
    if short:
        text, swapped = re.subn(r"(scrape_interval|evaluation_interval|scrape_timeout|refresh_interval): \d+s", r"\1: 1s", text)
        assert swapped == 4, f"prometheus.yml: {swapped} intervals found instead of 4"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "prometheus.yml").write_text(text)
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        rules = path.read_text()
        (folder / "rules" / path.name).write_text(shorten(rules) if short else rules)
    return folder / "prometheus.yml"


RANGES = {"5m": "15s", "10m": "15s", "15m": "30s", "30m": "15s", "1h": "20s", "2h": "15s", "6h": "20s", "1d": "20s", "3d": "20s"}


def shorten(rules: str) -> str:
    """Ranges of minutes to days become seconds, and waiting times (`for`) two seconds."""

    def swap(found: re.Match) -> str:
        return f"[{RANGES[found.group(1)]}]"

    rules = re.sub(r"\[(\d+[smhd])\]", swap, rules)
    rules = re.sub(r"\boffset (\d+[smhd])\b", lambda found: f"offset {RANGES[found.group(1)]}", rules)
    return re.sub(r"^(\s+for:) \S+$", r"\1 2s", rules, flags=re.M)


def render_alertmanager(folder: Path, receiver: str) -> Path:
    """Our configuration with another receiver and waiting times of seconds."""
    text = (ALERTMANAGER / "alertmanager.yml").read_text()
    assert "http://alert-receiver:9095" in text
    text = text.replace("http://alert-receiver:9095", receiver)
    text = re.sub(r"(group_wait|group_interval): \S+", r"\1: 1s", text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alertmanager.yml"
    path.write_text(text)
    return path


# Receivers


class Receiver:
    """An HTTP server that keeps what is posted to it."""

    def __init__(self, port: int = 0):
        self.posts: list[tuple[str, bytes]] = []
        self.times: list[float] = []
        self.status, self.answer = 200, b"{}"
        # Other answers for single paths.
        self.statuses: dict[str, int] = {}
        # While true, connections are closed without an answer; how often that happened.
        self.gone, self.refused = False, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                if self.turned_away():
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.posts.append((self.path, body))
                outer.times.append(time.time())
                answer = outer.answer(self.path, body) if callable(outer.answer) else outer.answer
                self.send_response(outer.statuses.get(self.path, outer.status))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST

            def turned_away(self) -> bool:
                if outer.gone:
                    outer.refused += 1
                    self.close_connection = True
                return outer.gone

            def do_GET(self):
                if self.turned_away():
                    return
                answer = outer.answer(self.path, b"") if callable(outer.answer) else outer.answer
                self.send_response(outer.statuses.get(self.path, outer.status))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def alerts(self) -> list[dict]:
        """Alerts of Alertmanager's webhook, each with the receiver it came to."""
        found = []
        for path, body in list(self.posts):
            for alert in json.loads(body)["alerts"]:
                found.append({**alert, "receiver": path.strip("/")})
        return found

    def close(self):
        self.server.shutdown()
        self.server.server_close()
