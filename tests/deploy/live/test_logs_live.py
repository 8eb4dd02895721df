"""rsyslog from Debian ships logs of the running platform; a small receiver in Elasticsearch's place checks what comes."""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import logs, monitoring
from support.monitoring import Program, Receiver, get, until
from support.ports import free_port


class Elasticsearch:
    """The part of Elasticsearch's bulk API that a shipper sees. Refuses what a data stream would refuse."""

    def __init__(self):
        self.documents: list[tuple[str, dict]] = []
        # So many documents are turned down next, and how many were.
        self.busy, self.turned_down = 0, 0
        self.receiver = Receiver()
        self.receiver.answer = self.take

    @property
    def url(self) -> str:
        return f"http://{self.receiver.address}"

    def take(self, path: str, body: bytes) -> bytes:
        if not body:
            return b'{"status":"green"}'
        assert path.startswith("/_bulk"), path
        assert body.endswith(b"\n"), "a bulk request ends with a newline"
        lines = [line for line in body.decode().split("\n") if line.strip()]
        assert len(lines) % 2 == 0
        items, busy = [], self.busy
        self.busy = 0
        for action, document in zip(lines[::2], lines[1::2]):
            action, document = json.loads(action), json.loads(document)
            assert list(action) == ["create"], "data streams take nothing else"
            assert set(action["create"]) == {"_index"}, "no types since Elasticsearch 8"
            assert document["@timestamp"]
            if busy:
                busy -= 1
                self.turned_down += 1
                items.append({"create": {"_index": action["create"]["_index"], "status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "rejected"}}})
                continue
            self.documents.append((action["create"]["_index"], document))
            items.append({"create": {"status": 201}})
        return json.dumps({"errors": any("error" in item["create"] for item in items), "items": items}).encode()

    def of(self, index: str) -> list[dict]:
        return [document for where, document in list(self.documents) if where == index]


SERVICE, ACCESS = "logs-plinth.service-default", "logs-plinth.access-default"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    elasticsearch = Elasticsearch()
    (folder / "services").mkdir()
    (folder / "access").mkdir()
    ports = {name: free_port() for name in ("agent", "registry", "registry-status", "proxy", "gateway-status", "upstream")}
    upstream = Receiver()
    running = []

    def start(name: str, args: list[str], env: dict[str, str] | None = None) -> Program:
        running.append(Program(name, args, folder / "services" / f"{name}.log", env or {}).start())
        return running[-1]

    try:
        agent = Program("agent", [monitoring.plinth_program("plinth"), "agent", "--bind", "127.0.0.1", "--http-port", str(ports["agent"]), "--in-memory"], folder / "agent.log")
        running.append(agent.start())
        consul = f"http://127.0.0.1:{ports['agent']}"
        until(lambda: get(consul + "/v1/status/leader"), f"the agent answers: {agent.tail()}", 20)
        shared = {"CONSUL__ADDRESS": consul, "AUTH__DISABLED": "true", "LOG__FORMAT": "json", "SHUTDOWN__DRAIN_DELAY": "0s"}
        registry = {"LISTEN": f"127.0.0.1:{ports['registry']}", "STATUS_LISTEN": f"127.0.0.1:{ports['registry-status']}", **shared}
        start("registry-service", [monitoring.plinth_program("registry-service")], {f"PLINTH_REGISTRY__{key}": value for key, value in registry.items()})
        kong = folder / "kong.json"
        kong.write_text(json.dumps({
            "_format_version": "3.0",
            "services": [{"name": "users", "url": f"http://{upstream.address}", "routes": [{"name": "users", "paths": ["/users"]}]}],
            "consumers": [{"username": "shop", "keyauth_credentials": [{"key": "k"}]}],
            "plugins": [
                {"name": "file-log", "config": {"path": str(folder / "access" / "access.log")}},
                {"name": "key-auth", "config": {"key_names": ["apikey"]}},
            ],
        }))
        gateway = {"PROXY_LISTEN": f"127.0.0.1:{ports['proxy']}", "ADMIN_LISTEN": "off", "STATUS_LISTEN": f"127.0.0.1:{ports['gateway-status']}", "CONFIG": str(kong), **shared}
        start("gateway", [monitoring.plinth_program("gateway")], {f"PLINTH_GATEWAY__{key}": value for key, value in gateway.items()})
        until(lambda: get(f"http://127.0.0.1:{ports['gateway-status']}/status/ready"), "the gateway is ready", 30)
        shipper = logs.rsyslog(folder / "rsyslog", elasticsearch.url, str(folder / "services" / "*.log"), str(folder / "access" / "*.log"))
        running.append(shipper.start())
        yield type("World", (), {"folder": folder, "elasticsearch": elasticsearch, "ports": ports, "running": running, "shipper": shipper, "agent": agent})
    finally:
        for one in reversed(running):
            one.kill()


def ask(world, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", world.ports["proxy"], timeout=10)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_lines_of_programs_arrive_as_they_were_written(world):
    def arrived():
        found = world.elasticsearch.of(SERVICE)
        return {"registry-service", "gateway"} <= {document.get("service.name") for document in found} and found

    found = until(arrived, f"lines of both programs: {world.shipper.tail()}", 40, 0.3)
    for document in found:
        if "service.name" not in document:
            # What a program says before its log is set up.
            assert document["event"]["kind"] == "pipeline_error" and document["message"], document
            continue
        written = (world.folder / "services" / f"{document['service.name']}.log").read_text()
        own = {name: value for name, value in document.items() if name not in ("event", "host", "log")}
        assert own in [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        assert document["event"] == {"dataset": "plinth.service"} and document["host"]["name"]
        assert document["log"]["file"]["path"].endswith(f"{document['service.name']}.log")


def test_requests_arrive_in_the_common_schema(world):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert ask(world, "/users/1?token=verysecret", apikey="k", user_agent="shop/1.0", traceparent=f"00-{trace}-00f067aa0ba902b7-01") == 200
    assert ask(world, "/users/2") == 401

    def arrived():
        found = {document["http"]["response"]["status_code"]: document for document in world.elasticsearch.of(ACCESS)}
        return found if {200, 401} <= set(found) else None

    found = until(arrived, f"both requests: {world.shipper.tail()}", 40, 0.3)
    good, refused = found[200], found[401]
    assert good["url"] == {"path": "/users/1"}
    assert good["kong"]["service"] == good["kong"]["route"] == "users" and good["kong"]["consumer"] == good["user"]["name"] == "shop"
    assert good["trace"]["id"] == trace
    assert good["user_agent"]["original"] == "shop/1.0"
    assert good["event"]["outcome"] == "success" and good["event"]["duration"] == good["kong"]["latencies"]["request"] * 1_000_000
    assert good["message"] == "GET /users/1 200"
    assert "user" not in refused and refused["kong"]["source"] == "kong"
    assert "verysecret" not in json.dumps(world.elasticsearch.documents)


def test_the_template_knows_all_that_came(world):
    for _, document in world.elasticsearch.documents:
        assert not logs.unfit(document), document
    assert world.elasticsearch.of(SERVICE) and world.elasticsearch.of(ACCESS)


def test_real_entries_have_what_logstash_takes(world):
    """The entry that static/test_logs.py puts through the pipeline's table looks like the gateway's."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "static"))
    from test_logs import ENTRY

    entries = [json.loads(line) for line in (world.folder / "access" / "access.log").read_text().splitlines()]
    real = next(logs.fields(entry) for entry in entries if entry["response"]["status"] == 200)
    for path, value in logs.fields(ENTRY).items():
        assert path in real, path
        assert type(real[path]) is type(value), path


def test_nothing_is_lost_while_elasticsearch_is_away(world):
    receiver = world.elasticsearch.receiver
    receiver.gone = True
    for number in range(30):
        assert ask(world, f"/users/away-{number}", apikey="k") == 200
    until(lambda: receiver.refused >= 2, f"rsyslog tries: {world.shipper.tail()}", 30)
    assert not [document for document in world.elasticsearch.of(ACCESS) if "away" in document["url"]["path"]]
    receiver.gone = False

    def arrived():
        return {f"/users/away-{number}" for number in range(30)} <= {document["url"]["path"] for document in world.elasticsearch.of(ACCESS)}

    until(arrived, f"all 30 requests after the outage: {world.shipper.tail()}", 90, 0.5)


def test_what_a_busy_elasticsearch_turns_down_comes_again(world):
    world.elasticsearch.busy = 3
    paths = {f"/users/busy-{number}" for number in range(5)}
    for path in paths:
        assert ask(world, path, apikey="k") == 200

    def arrived():
        return paths <= {document["url"]["path"] for document in world.elasticsearch.of(ACCESS)} and world.elasticsearch.turned_down

    until(arrived, f"all five requests: {world.shipper.tail()}", 60, 0.3)
    for document in world.elasticsearch.of(ACCESS):
        assert not logs.unfit(document), document


def test_what_is_refused_as_a_whole_stands_in_the_file_of_errors(world):
    """A request that is answered with an error instead of a result for each entry: rsyslog does not send it again, but keeps it."""
    receiver = world.elasticsearch.receiver
    receiver.answer = lambda path, body: b'{"error":{"type":"cluster_block_exception","reason":"blocked"},"status":503}'
    receiver.status = 503
    assert ask(world, "/users/blocked", apikey="k") == 200
    errors = world.folder / "rsyslog" / "errors"
    until(lambda: errors.exists() and "blocked" in errors.read_text(), "the file of errors", 30)
    kept = json.loads(errors.read_text().splitlines()[0])
    assert json.loads(kept["request"]["postdata"].splitlines()[1])["url"]["path"] == "/users/blocked"
    receiver.status, receiver.answer = 200, world.elasticsearch.take


def test_a_restart_reads_on_where_it_was(world):
    world.shipper.stop()
    world.elasticsearch.documents.clear()
    assert ask(world, "/users/while-stopped", apikey="k") == 200
    world.shipper.start()
    until(lambda: "/users/while-stopped" in {document["url"]["path"] for document in world.elasticsearch.of(ACCESS)}, "the request of meanwhile", 40, 0.3)
    assert "/users/1" not in {document["url"]["path"] for document in world.elasticsearch.of(ACCESS)}, "nothing comes twice"
