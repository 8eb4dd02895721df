"""Log pipelines: files that their programs would read, and an index template that knows every field of real log lines.

Filebeat, Logstash, Elasticsearch and Kibana cannot be run here; what can be said about their files without them is said here.
rsyslog is checked by itself, and run in live/test_logs_live.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import logs, monitoring
from support.ports import free_port

# A request entry as the gateway writes it, with what Logstash takes from it. live/test_logs_live.py compares it with real ones.
ENTRY = {
    "request": {"id": "a", "method": "GET", "uri": "/x?token=t", "size": 1, "headers": {"user-agent": "curl", "traceparent": "00-a-b-01"}},
    "response": {"status": 200, "size": 1},
    "upstream_status": "200",
    "latencies": {"request": 2, "kong": 1, "proxy": 1, "receive": 0},
    "service": {"name": "s"},
    "route": {"name": "r"},
    "consumer": {"username": "c"},
    "client_ip": "127.0.0.1",
    "started_at": 1,
    "source": "upstream",
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> list[dict]:
    """Lines of real programs in trouble: there is no Consul, and somebody asks."""
    folder = tmp_path_factory.mktemp("logs")
    nobody, found = free_port(), []
    running = []
    try:
        for program, prefix in (("registry-service", "REGISTRY"), ("health-aggregator", "HEALTH"), ("config-service", "CONFIG"), ("gateway", "GATEWAY")):
            port = free_port()
            env = {"LOG__FORMAT": "json", "LOG__LEVEL": "info", "CONSUL__ADDRESS": f"http://127.0.0.1:{nobody}", "AUTH__DISABLED": "true", "SHUTDOWN__DRAIN_DELAY": "0s"}
            if program == "gateway":
                kong = folder / "kong.yml"
                kong.write_text("_format_version: '3.0'\nservices: [{name: a, url: 'http://a.service.consul', routes: [{name: a, paths: [/a], methods: [GET]}]}]\n")
                env |= {"PROXY_LISTEN": f"127.0.0.1:{port}", "ADMIN_LISTEN": "off", "CONFIG": str(kong)}
            else:
                env |= {"LISTEN": f"127.0.0.1:{port}"}
            if program == "config-service":
                env |= {"DATA_DIR": str(folder / "config")}
            env["STATUS_LISTEN"] = f"127.0.0.1:{free_port()}"
            one = monitoring.Program(program, [monitoring.plinth_program(program)], folder / f"{program}.log", {f"PLINTH_{prefix}__{name}": value for name, value in env.items()})
            running.append((one.start(), port))

        def troubled() -> bool:
            for one, port in running:
                try:
                    monitoring.get(f"http://127.0.0.1:{port}/api/v1/services/discover/x", timeout=3)
                except OSError:
                    pass
            texts = {one.name: one.log.read_text() for one, _ in running}
            return all('"log.level":"warn"' in text or '"log.level":"error"' in text for text in texts.values()) and "request not served" in texts["registry-service"]

        monitoring.until(troubled, "every program has something to complain about", 20, 0.3)
    finally:
        for one, _ in running:
            one.stop()
    for one, _ in running:
        mine = [json.loads(line) for line in one.log.read_text().splitlines() if line.startswith("{")]
        assert mine, f"{one.name} wrote no JSON: {one.tail()}"
        assert {line["service.name"] for line in mine} == {one.name}
        found += mine
    return found


def test_lines_are_in_the_common_schema(lines):
    for line in lines:
        assert {"@timestamp", "ecs.version", "log.level", "message", "log.logger", "service.name", "service.version", "process.pid"} <= set(line), line


def test_the_template_knows_every_field_of_real_lines(lines):
    for line in lines:
        assert not logs.unfit(line), line
    seen = {path for line in lines for path in logs.fields(line)}
    assert {"error.message", "plinth.status", "plinth.millis"} <= seen, "the lines show the fields of faults"


@pytest.mark.parametrize(
    ("field", "kind"),
    [("plinth.status", "short"), ("plinth.millis", "long"), ("plinth.service_id", "keyword"), ("log.level", "keyword"), ("message", "match_only_text"), ("trace.id", "keyword"),
     ("http.response.status_code", "short"), ("event.duration", "long"), ("client.ip", "ip"), ("kong.latencies.proxy", "long"), ("@timestamp", "date")],
)
def test_fields_have_the_types_that_searches_need(field, kind):
    assert logs.mapped(field) == kind


def test_unknown_fields_are_kept_but_not_indexed():
    assert logs.mapped("somebody.elses.field") is None
    assert logs.unfit({"somebody": {"elses": 1}, "http": {"response": {"status_code": "200"}}}) == {
        "somebody.elses": "not mapped",
        "http.response.status_code": "short, but is '200'",
    }


def test_lifecycle_and_template_belong_together():
    settings = logs.template()["template"]["settings"]
    policy = json.loads((logs.ELK / "elasticsearch" / "ilm-policy.json").read_text())["policy"]
    assert list(policy["phases"]) == ["hot", "warm", "delete"]
    assert "rollover" in policy["phases"]["hot"]["actions"] and "delete" in policy["phases"]["delete"]["actions"]
    setup = (logs.ELK / "setup.sh").read_text()
    assert f"_ilm/policy/{settings['index.lifecycle.name']}" in setup
    assert "data_stream" in logs.template()
    for file in re.findall(r'\$here/([\w./-]+)', setup):
        assert (logs.ELK / file).exists(), file


def test_the_shipper_may_only_append():
    role = json.loads((logs.ELK / "elasticsearch" / "shipper-role.json").read_text())
    assert role["indices"] == [{"names": logs.template()["index_patterns"], "privileges": ["create_doc", "auto_configure"]}]


# Filebeat


def test_filebeat():
    config = yaml.safe_load((logs.ELK / "filebeat" / "filebeat.yml").read_text())
    inputs = {one["id"]: one for one in config["filebeat.inputs"]}
    assert set(inputs) == {"plinth-containers", "plinth-access"}
    for one in inputs.values():
        assert one["type"] == "filestream" and "ndjson" in one["parsers"][-1]
    assert [next(iter(parser)) for parser in inputs["plinth-containers"]["parsers"]] == ["container", "ndjson"]
    sets = [processor["add_fields"]["fields"]["dataset"] for one in inputs.values() for processor in one["processors"] if "add_fields" in processor]
    assert sets == ["plinth.service", "plinth.container", "plinth.access"]
    outputs = [name for name in config if name.startswith("output.")]
    assert outputs == ["output.logstash"]


# Logstash


def pipeline() -> str:
    return (logs.ELK / "logstash" / "pipeline" / "plinth.conf").read_text()


def test_logstash_pipeline_is_balanced():
    """A reader of Logstash's syntax, as far as its brackets, strings and plugin names go."""
    text = re.sub(r"^\s*#.*$", "", pipeline(), flags=re.M)
    bare = re.sub(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', '""', text, flags=re.S)
    stack = []
    for sign in bare:
        if sign in "{[(":
            stack.append(sign)
        elif sign in "}])":
            assert stack and stack.pop() + sign in ("{}", "[]", "()")
    assert not stack
    assert re.findall(r"^(\w+) \{$", text, re.M) == ["input", "filter", "output"]
    plugins = set(re.findall(r"^\s+(\w+) \{", bare, re.M)) - {"if", "else", "input", "filter", "output"}
    assert plugins == {"beats", "http", "mutate", "date", "dissect", "ruby", "elasticsearch"}
    assert "password => \"${ELASTICSEARCH_PASSWORD}\"" in text


def test_logstash_makes_of_an_entry_what_the_template_knows():
    renames = re.findall(r'"\[entry\]([\[\]\w-]+)" => "([\[\]@\w]+)"', pipeline())
    assert len(renames) == 15
    for source, target in renames:
        value = ENTRY
        for part in re.findall(r"\[([\w-]+)\]", source):
            value = value[part]
        parts = re.findall(r"\[([@\w]+)\]", target)
        if parts[0] == "@metadata":
            continue
        document = value
        for part in reversed(parts):
            document = {part: document}
        assert not logs.unfit(document), target
    added = [target for target, _ in re.findall(r'"(\[[\[\]\w]+)" => "([^"]+)"', pipeline().split("add_field", 2)[2]) if not target.startswith("[entry]")]
    assert {"[service][name]", "[event][kind]", "[data_stream][dataset]"} <= set(added)
    for target in added:
        assert logs.mapped(target.strip("[]").replace("][", ".")), target


# Kibana


def test_kibana_objects_hold_together():
    objects = [json.loads(line) for line in (logs.ELK / "kibana" / "plinth.ndjson").read_text().splitlines()]
    ids = {(one["type"], one["id"]) for one in objects}
    assert len(ids) == len(objects)
    for one in objects:
        for reference in one["references"]:
            assert (reference["type"], reference["id"]) in ids, reference
        for name, text in one["attributes"].items():
            if name.endswith("JSON") or name in ("visState", "fieldFormatMap"):
                json.loads(text)
        source = one["attributes"].get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}")
        query = json.loads(source).get("query", {}).get("query", "")
        for field in re.findall(r"([\w@]+(?:\.\w+)+|message)\s*(?::|>=|<=|<|>)", query) + one["attributes"].get("columns", []):
            assert logs.mapped(field), f"{one['id']}: {field} is not indexed"
    view = next(one for one in objects if one["type"] == "index-pattern")
    assert [view["attributes"]["title"]] == logs.template()["index_patterns"]


# Setup and rsyslog


def test_setup_runs_twice_and_keeps_passwords_off_the_command_line(tmp_path):
    receiver = monitoring.Receiver()
    receiver.answer = lambda path, body: b'{"success":true,"acknowledged":true}'
    try:
        (tmp_path / "elastic").write_text('se"cret\n')
        (tmp_path / "shipper").write_text("ship\n")
        url = f"http://{receiver.address}"
        env = {**os.environ, "ELASTICSEARCH_URL": url, "KIBANA_URL": url, "ELASTICSEARCH_PASSWORD_FILE": str(tmp_path / "elastic"), "SHIPPER_PASSWORD_FILE": str(tmp_path / "shipper")}
        for _ in range(2):
            receiver.posts.clear()
            done = subprocess.run(["sh", "-x", str(logs.ELK / "setup.sh")], env=env, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
            written = dict(receiver.posts)
            assert list(written) == [
                "/_ilm/policy/plinth-logs", "/_index_template/plinth-logs", "/_security/role/plinth-shipper", "/_security/user/plinth-shipper", "/api/saved_objects/_import?overwrite=true",
            ]
            assert json.loads(written["/_security/user/plinth-shipper"])["password"] == "ship"
            commands = [line for line in done.stderr.splitlines() if line.startswith("+ curl")]
            assert commands and not any("cret" in line for line in commands)
        # What is refused fails, with the answer.
        receiver.answer = lambda path, body: b'{"success":true}' if not body else b'{"error":"no such privilege"}'
        receiver.statuses = {"/_index_template/plinth-logs": 403}
        done = subprocess.run(["sh", str(logs.ELK / "setup.sh")], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and "403" in done.stderr and "no such privilege" in done.stderr
        receiver.statuses = {}
        receiver.answer = lambda path, body: b'{"success":false,"errors":[1]}'
        done = subprocess.run(["sh", str(logs.ELK / "setup.sh")], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and "not imported" in done.stderr
    finally:
        receiver.close()
    done = subprocess.run(["sh", str(logs.ELK / "setup.sh")], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0 and "ELASTICSEARCH_PASSWORD_FILE" in done.stderr


def test_rsyslog_takes_the_file(tmp_path):
    one = logs.rsyslog(tmp_path, "http://127.0.0.1:9", str(tmp_path / "services-*.log"), str(tmp_path / "access-*.log"))
    done = subprocess.run([*one.args[:1], "-N1", "-f", str(tmp_path / "rsyslog.conf")], env={**os.environ, **one.env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
