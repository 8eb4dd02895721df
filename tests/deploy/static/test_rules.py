"""Alert and recording rules: valid, tested one by one, explained in the runbooks, and about metrics that exist."""

import functools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import monitoring, promql

RULES = sorted((monitoring.PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((monitoring.PROMETHEUS / "tests").glob("*_test.yml"))
SEVERITIES = {"critical", "warning", "info", "none"}
# What Prometheus and Alertmanager say of themselves.
FOREIGN = {
    "up",
    "ALERTS",
    "prometheus_notifications_errors_total",
    "prometheus_notifications_dropped_total",
    "prometheus_rule_evaluation_failures_total",
    "prometheus_config_last_reload_successful",
    "alertmanager_notifications_failed_total",
}
# Labels that the scrape gives.
TARGET_LABELS = {"job", "instance", "datacenter"}


def promtool(*args: str) -> str:
    done = subprocess.run([monitoring.tool("promtool"), *args], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid():
    assert len(RULES) >= 8
    promtool("check", "rules", *map(str, RULES))


def test_prometheus_configuration_is_valid():
    # Bookworm's promtool knows no consul_sd, bullseye's does.
    old = Path(monitoring.prometheus_with_consul()).with_name("promtool")
    done = subprocess.run([str(old), "check", "config", str(monitoring.PROMETHEUS / "prometheus.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_live_test_replaces_is_still_there(tmp_path):
    """The configuration with other addresses and shorter times is valid, and has the same alerts."""
    config = monitoring.render_prometheus(tmp_path, "http://127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", short=True)
    old = Path(monitoring.prometheus_with_consul()).with_name("promtool")
    done = subprocess.run([str(old), "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = "".join(path.read_text() for path in (tmp_path / "rules").glob("*.yml"))
    assert set(re.findall(r"alert: (\w+)", text)) == set(monitoring.alerts())
    assert not re.search(r"\[\d+[mhd]\]|for: \d+[mh]|offset \d+[mhd]", text)
    manager = monitoring.render_alertmanager(tmp_path, "http://127.0.0.1:4")
    done = subprocess.run([monitoring.tool("amtool"), "check-config", str(manager)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_configuration_is_valid():
    files = [str(monitoring.ALERTMANAGER / name) for name in ("alertmanager.yml", "receivers.example.yml")]
    done = subprocess.run([monitoring.tool("amtool"), "check-config", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_tests_of_rules_pass():
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: promtool("test", "rules", str(path)), TESTS))


@functools.cache
def cases() -> list[tuple[str, bool]]:
    """(alert, fires) of every case in the unit tests."""
    found = []
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for query in test["promql_expr_test"]:
                name = re.search(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', query["expr"]).group(1)
                assert test["name"].startswith(name), f"{path.name}: {test['name']!r} asks for {name}"
                found.append((name, bool(query["exp_samples"])))
    return found


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    names, found = set(monitoring.alerts()), cases()
    assert {name for name, _ in found} == names
    assert {name for name, fires in found if fires} == names
    # The watchdog never keeps quiet.
    assert {name for name, fires in found if not fires} == names - {"PlinthWatchdog"}


def test_unit_tests_notice_a_broken_rule(tmp_path):
    """An alert that never fires and one that always does both fail their tests."""
    source = (monitoring.PROMETHEUS / "rules" / "health.yml").read_text()
    for number, (old, new) in enumerate(
        [("health_brake_engaged == 1", "health_brake_engaged == 2"), ("increase(health_write_failures_total[5m]) > 0", "increase(health_write_failures_total[5m]) >= 0")]
    ):
        assert old in source
        folder = tmp_path / str(number)
        (folder / "rules").mkdir(parents=True)
        (folder / "tests").mkdir()
        (folder / "rules" / "health.yml").write_text(source.replace(old, new))
        test = folder / "tests" / "health_test.yml"
        test.write_text((monitoring.PROMETHEUS / "tests" / "health_test.yml").read_text())
        done = subprocess.run([monitoring.tool("promtool"), "test", "rules", str(test)], capture_output=True, text=True)
        assert done.returncode != 0, f"{new} passes"


@pytest.mark.parametrize("name", sorted(monitoring.alerts()))
def test_alert_is_complete(name):
    rule = monitoring.alerts()[name]
    assert name.startswith("Plinth")
    assert rule["labels"]["severity"] in SEVERITIES
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert len(notes["summary"]) <= 100 and not notes["summary"].endswith(".")
    assert notes["description"].strip().endswith((".", ")."))
    anchor = re.search(r"\}\}#(\w+)$", notes["runbook_url"]).group(1)
    assert anchor == name.lower()


@functools.cache
def sections() -> dict[str, str]:
    text = (monitoring.ROOT / "docs" / "runbooks.md").read_text()
    parts = re.split(r"^### (\w+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def test_runbooks_cover_exactly_the_alerts():
    assert set(sections()) == set(monitoring.alerts())


@pytest.mark.parametrize("name", sorted(monitoring.alerts()))
def test_runbook_says_what_to_do(name):
    text = sections()[name]
    parts = re.findall(r"^\*\*(Meaning|Impact|Look|Mend)\*\*", text, re.M)
    assert parts == ["Meaning", "Impact", "Look", "Mend"], f"{name}: {parts}"
    severity = monitoring.alerts()[name]["labels"]["severity"]
    assert f"*{severity}*" in text, f"{name}: the severity is {severity}"


def test_rules_use_documented_metrics_and_labels():
    metrics, recorded = monitoring.documented(), monitoring.recorded()
    for group in monitoring.rule_groups():
        for rule in group["rules"]:
            what = rule.get("alert") or rule["record"]
            for series in promql.metric_names(rule["expr"]):
                if series in recorded or series in FOREIGN:
                    continue
                assert promql.family(series, set(metrics)), f"{what}: {series} is not in docs/metrics.md"


def test_selectors_use_labels_that_the_metric_has():
    metrics = monitoring.documented()
    for group in monitoring.rule_groups():
        for rule in group["rules"]:
            for series, matchers in re.findall(r"([a-zA-Z_]\w*)\{([^{}]*)\}", rule["expr"]):
                known = promql.family(series, set(metrics))
                if known is None:
                    continue
                labels = metrics[known].labels | TARGET_LABELS | {"le"}
                asked = promql.label_names("{" + matchers + "}")
                assert asked <= labels, f"{rule.get('alert') or rule['record']}: {series} has no label {asked - labels}"


def test_inhibitions_name_alerts_that_exist():
    config = yaml.safe_load((monitoring.ALERTMANAGER / "alertmanager.yml").read_text())
    known = set(monitoring.alerts())
    matchers = [m for rule in config["inhibit_rules"] for m in rule["source_matchers"] + rule["target_matchers"]]
    matchers += [m for route in config["route"]["routes"] for m in route["matchers"]]
    for matcher in matchers:
        if matcher.startswith("alertname"):
            names = re.search(r'"(.*)"', matcher).group(1).split("|")
            assert set(names) <= known, f"{matcher}: {set(names) - known}"


def test_every_severity_has_a_route():
    config = yaml.safe_load((monitoring.ALERTMANAGER / "alertmanager.yml").read_text())
    text = " ".join(m for route in config["route"]["routes"] for m in route["matchers"])
    for severity in SEVERITIES - {"none"}:
        assert f'severity = "{severity}"' in text
    receivers = {receiver["name"] for receiver in config["receivers"]}
    assert {route["receiver"] for route in config["route"]["routes"]} == receivers


def test_names_of_series_are_found_in_expressions():
    assert promql.metric_names('sum by (job) (rate(a_total{x="y",z=~"b|c"}[5m])) / on (job) group_left () b:c:d > 14.4 * 0.001 unless 1e3 * d') == {"a_total", "b:c:d", "d"}
    assert promql.label_names('sum by (job, le) (a{x="y{z}",w!~"b"})') == {"job", "le", "x", "w"}
