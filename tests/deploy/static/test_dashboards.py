"""docs/metrics.md against the running programs, and Grafana's dashboards against docs/metrics.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import monitoring, promql
from support.ports import free_port

DASHBOARDS = sorted((monitoring.GRAFANA / "dashboards").glob("*.json"))
# What Prometheus makes itself.
FOREIGN = {"up", "ALERTS"}
OVER_SECTION = "All services"


# The reference


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, dict[str, monitoring.Metric]]:
    """/metrics of each service of a running `plinth up --demo`, after a little traffic."""
    folder = tmp_path_factory.mktemp("up")
    names = ("agent", "registry", "config", "health", "proxy", "admin", "status")
    ports = {name: free_port() for name in names}
    args = [monitoring.plinth_program("plinth"), "up", "--demo", "--data-dir", str(folder / "data")]
    args += [part for name, port in ports.items() for part in (f"--{name}-listen", f"127.0.0.1:{port}")]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CONSUL_", "PLINTH_"))}
    log = (folder / "log").open("wb")
    process = subprocess.Popen(args, stdout=log, stderr=log, env=env)
    try:
        where = {"registry-service": "registry", "config-service": "config", "health-aggregator": "health", "gateway": "status"}

        def read() -> dict[str, dict]:
            assert process.poll() is None, (folder / "log").read_text()
            return {
                service: monitoring.exposed(monitoring.get(f"http://127.0.0.1:{ports[port]}/metrics").decode()) for service, port in where.items()
            }

        monitoring.until(lambda: "Ctrl-C" in (folder / "log").read_text(), "plinth up is ready", 30)
        yield monitoring.until(lambda: (seen := read())["gateway"].get("gateway_upstream_endpoints") and seen, "the demo's upstreams are there", 20)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def expected(service: str) -> dict[str, monitoring.Metric]:
    sections = {OVER_SECTION, service} | ({"Kong's names"} if service == "gateway" else set())
    return {name: metric for name, metric in monitoring.documented().items() if metric.section in sections}


@pytest.mark.parametrize("service", monitoring.SERVICES)
def test_no_metric_is_undocumented(pages, service):
    assert set(pages[service]) <= set(expected(service))


@pytest.mark.parametrize("service", monitoring.SERVICES)
def test_documented_metrics_are_there(pages, service):
    missing = {name for name, metric in expected(service).items() if metric.always} - set(pages[service])
    assert not missing


@pytest.mark.parametrize("service", monitoring.SERVICES)
def test_types_and_labels_are_as_documented(pages, service):
    for name, metric in pages[service].items():
        known = expected(service)[name]
        assert metric.type == known.type, name
        assert metric.labels == known.labels, name


def test_conditional_metrics_exist_in_the_source():
    source = "\n".join(
        path.read_text()
        for folder in ("services", "crates")
        for path in (monitoring.ROOT / folder).rglob("*.rs")
        if "tests" not in path.parts and "target" not in path.parts and path.name != "tests.rs"
    )
    for name, metric in monitoring.documented().items():
        assert f'"{name}"' in source, f"{name} is documented, but no program makes it"


# Dashboards


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def panels(dashboard: dict) -> list[dict]:
    return [panel for row in dashboard["panels"] for panel in [row, *row.get("panels", [])]]


def queries(dashboard: dict) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in panels(dashboard) for target in panel.get("targets", [])]


def test_the_dashboards_are_there():
    assert {load(path)["uid"] for path in DASHBOARDS} == {f"plinth-{name}" for name in ("platform", "registry", "config", "health", "gateway", "kong")}
    assert len({load(path)["title"] for path in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_are_whole(path):
    dashboard = load(path)
    assert dashboard["uid"] == f"plinth-{path.stem}"
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)
    used = set()
    for panel in panels(dashboard):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & used, f"{panel['title']} lies over another panel"
        used |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["description"].endswith((".", "?")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_queries_use_documented_metrics_and_their_labels(path):
    metrics, recorded = monitoring.documented(), monitoring.recorded()
    dashboard = load(path)
    asked = queries(dashboard) + [
        (variable["name"], re.sub(r"^label_values\((.*), \w+\)$", r"\1", variable["definition"]))
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    for title, expression in asked:
        for series in promql.metric_names(expression.replace("$__rate_interval", "1m")):
            assert series in recorded | FOREIGN or promql.family(series, set(metrics)), f"{title}: {series} is not in docs/metrics.md"
        for series, matchers in re.findall(r"([a-zA-Z_]\w*)\{([^{}]*)\}", expression):
            known = promql.family(series, set(metrics))
            if known:
                wrong = promql.label_names("{" + matchers + "}") - metrics[known].labels - {"job", "instance"}
                assert not wrong, f"{title}: {series} has no label {wrong}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_variables_are_declared_and_used(path):
    dashboard = load(path)
    declared = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([panel.get("targets", []) for panel in panels(dashboard)])
    used = set(re.findall(r"\$(?:\{)?([a-z]\w*)", text.replace("$__rate_interval", "")))
    assert used == declared, f"declared {declared}, used {used}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_queries_are_promql(path, tmp_path):
    """promtool reads every query as a recording rule."""
    rules = []
    for number, (_, expression) in enumerate(queries(load(path))):
        expression = re.sub(r"\$__rate_interval", "1m", expression)
        rules.append({"record": f"query:{number}", "expr": re.sub(r"\$\w+", ".*", expression)})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run([monitoring.tool("promtool"), "check", "rules", "--lint=none", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_a_service_is_on_a_dashboard_or_in_an_alert():
    """Nothing is collected that nobody looks at."""
    metrics = monitoring.documented()
    seen = set()
    for path in DASHBOARDS:
        for _, expression in queries(load(path)):
            seen |= {promql.family(series, set(metrics)) for series in promql.metric_names(expression.replace("$__rate_interval", "1m"))}
    for group in monitoring.rule_groups():
        for rule in group["rules"]:
            seen |= {promql.family(series, set(metrics)) for series in promql.metric_names(rule["expr"])}
    # plinth_ready is what probes and load balancers ask.
    assert set(metrics) - seen == {"plinth_ready"}


def test_provisioning_fits():
    sources = yaml.safe_load((monitoring.GRAFANA / "provisioning/datasources/datasources.yml").read_text())["datasources"]
    assert [source["type"] for source in sources] == ["prometheus", "alertmanager"]
    scrape = yaml.safe_load((monitoring.PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert sources[0]["jsonData"]["timeInterval"] == scrape
    provider = yaml.safe_load((monitoring.GRAFANA / "provisioning/dashboards/dashboards.yml").read_text())["providers"][0]
    assert provider["type"] == "file" and provider["options"]["path"].startswith("/var/lib/grafana/")
