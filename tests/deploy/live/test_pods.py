"""The chart's pods, executed: `helm install` without values, probes as they are written, a rolling update, killed pods.

Consul here is 1.8.7 (the newest that Debian has), which knows no intentions as configuration entries: they are left out.
"""

import http.client
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support import chart, pods
from support.engine import cache_folder, program, until

APPLICATION = "user-service"
KONG = """\
_format_version: "3.0"
services:
  - name: users
    url: http://user-service.service.consul
    routes: [{ name: users, paths: [/api/v1/users], strip_path: false }]
    plugins:
      - name: rate-limiting
        config:
          minute: 1000000
          policy: redis
          redis: { host: plinth-redis, password: "{vault://env/redis-password}" }
plugins:
  - name: prometheus
    config: { status_code_metrics: true }
"""
APPLICATIONS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}
VALUES = {
    "gateway": {"config": {"kong": KONG}},
    "mtls": {"intentions": {"enabled": False}},
    # The demo registers in Consul itself.
    "networkPolicy": {"consulClients": [APPLICATIONS]},
}
SERVERS = ("consul", "postgresql", "redis", "rabbitmq")


class Load:
    """A steady stream of GETs: half of the clients keep their connection, half take a new one each time."""

    def __init__(self, port, path, headers=None, tls=False, clients=4, per_second=40):
        self.port, self.path, self.headers, self.tls = port, path, headers or {}, tls
        self.pause = clients / per_second
        self.answers = Counter()
        self.retried = 0
        self.failures = []
        self.retry_after = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(n % 2 == 0,), daemon=True) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _connect(self):
        if self.tls:
            # Identities of Connect carry SPIFFE ids, not names; what is looked at here is whether requests are served.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=15, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)

    def _get(self, connection):
        connection.request("GET", self.path, headers=self.headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, body

    def _client(self, keep):
        connection = None
        while not self._stop.is_set():
            try:
                connection = connection or self._connect()
                status, body = self._get(connection)
                problem = None if status == 200 else f"{status} {body[:200]}"
            except (OSError, http.client.HTTPException) as error:
                status, problem = type(error).__name__, repr(error)
            if problem or not keep:
                if connection:
                    connection.close()
                connection = None
            if problem and self.retry_after is not None:
                time.sleep(self.retry_after)
                with self._lock:
                    self.retried += 1
                try:
                    fresh = self._connect()
                    status, body = self._get(fresh)
                    fresh.close()
                    problem = None if status == 200 else f"again: {status} {body[:200]}"
                except (OSError, http.client.HTTPException) as error:
                    status, problem = type(error).__name__, f"again: {error!r}"
            with self._lock:
                self.answers[status] += 1
                if problem:
                    self.failures.append((time.strftime("%X"), problem))
            self._stop.wait(self.pause)
        if connection:
            connection.close()

    def sent(self):
        return sum(self.answers.values())

    def end(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture(scope="module")
def cluster(engine):
    """`helm install plinth helm/plinth` with a route, two instances of an application behind it."""
    running = None
    try:
        engine.stand_ins(("consul", "postgres", "redis", "rabbitmq"))
        engine.ours()
        documents = chart.documents(chart.fresh(VALUES))
        folder = Path(tempfile.mkdtemp(prefix="pods-", dir=_folder()))
        running = pods.Cluster(engine, folder, documents)
        begun = time.monotonic()
        workloads = chart.of_kind(documents, "StatefulSet", "Deployment")
        # Kubernetes starts all at once: who comes before what it needs waits or is started again.
        made, threads = [], []
        for workload in workloads:
            count = 1 if workload["kind"] == "StatefulSet" else running.replicas(workload)
            for _ in range(count):
                threads.append(threading.Thread(target=lambda w=workload: made.append(running.create(w))))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4 + 8
        for name in ("a", "b"):
            _application(running, name)
        running.wait_ready(made, 150)
        print(f"\ninstalled and ready after {time.monotonic() - begun:.1f} s; restarts: {[(p.name, p.restarts) for p in made if p.restarts]}")
        running.front = running.services.listen("127.0.0.1", 0, 8000)
        running.registry = running.services.listen("127.0.0.1", 0, 8510)
        yield running
    finally:
        if running:
            running.close()


def _folder():
    folder = cache_folder() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _application(cluster, name):
    """A team's own pod, registered in Consul."""
    pod = {
        "kind": "Pod",
        "metadata": {"name": f"user-{name}", "namespace": "apps", "labels": {"app": "users", "app.kubernetes.io/component": "application"}},
        "spec": {
            "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [
                {
                    "name": APPLICATION,
                    "image": f"plinth/demo-service:{chart_version()}",
                    "args": ["--name", APPLICATION, "--listen", "0.0.0.0:8080", "--drain", "5s"],
                    "env": [
                        {"name": "PLINTH_DEMO__ADVERTISE", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                        {"name": "CONSUL_HTTP_ADDR", "value": "http://plinth-consul:8500"},
                    ],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
                    "resources": {"limits": {"memory": "128Mi", "cpu": "1"}},
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    return cluster.create(pod)


def chart_version():
    import yaml

    return yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"]


def _get(address, port, path, headers=None, tls=False):
    load = Load.__new__(Load)
    load.tls, load.port = tls, port
    if tls:
        connection = load._connect()
    else:
        connection = http.client.HTTPConnection(address, port, timeout=10)
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def _token(cluster, scope):
    """As NOTES.txt says: with the installation's own key."""
    key = cluster.folder / "operator.pem"
    key.write_bytes(cluster.data("Secret", "plinth-signing")["token-key.pem"])
    key.chmod(0o600)
    done = subprocess.run([program("plinth"), "token", "--key", key, "--scope", scope, "--ttl", "10m"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _mtls(cluster):
    return chart.merged({"mtls": {"mode": "connect"}}, VALUES)["mtls"]["mode"] == "connect"


def test_every_pod_is_healthy_and_finds_its_servers(cluster):
    wanted = {
        "registry": {"consul", "registration"},
        "config": {"consul", "sql", "rabbitmq", "registration"},
        "health": {"consul", "registration"},
        "gateway": {"consul"},
    }
    for component, checks in wanted.items():
        assert len(cluster.of(component)) == 2
        for pod in cluster.of(component):

            def healthy(pod=pod, checks=checks, component=component):
                status, text, _ = _get(pod.ip, 8007, "/health")
                health = json.loads(text)
                bad = {n: c for n, c in health["checks"].items() if c["status"] != "pass"}
                assert status == 200 and not bad and checks <= health["checks"].keys(), f"{pod.name}: {text[:1500]}"
                assert component != "config" or health["checks"]["sql"]["details"] == {"kind": "postgres"}
                return True

            until(healthy, 30, f"{pod.name} is healthy")
            assert _get(pod.ip, 8007, "/metrics")[0] == 200


def test_replicas_of_the_aggregator_know_each_other(cluster):
    """With the tokens that the init containers signed."""
    for pod in cluster.of("health"):

        def both(pod=pod):
            text = _get(pod.ip, 8007, "/metrics")[1]
            [line] = [x for x in text.splitlines() if x.startswith("health_members_live")]
            return float(line.rsplit(" ", 1)[1]) >= 1

        until(both, 30, f"{pod.name} sees the other one")


def test_requests_pass_the_gateway_and_are_counted_in_redis(cluster):
    def passes():
        status, text, headers = _get("127.0.0.1", cluster.front, "/api/v1/users/1")
        assert status == 200, (status, text)
        # The rate-limiting plugin leaves these out when it cannot ask its Redis.
        return "x-ratelimit-remaining-minute" in {h.lower() for h in headers}

    until(passes, 30, "a request passes, counted")
    instances = Counter(json.loads(_get("127.0.0.1", cluster.front, "/api/v1/users/1")[1])["instance"] for _ in range(20))
    assert len(instances) == 2, instances


def _connects(cluster, source, target, port):
    """From within the network of one pod to another."""
    script = f"import socket; socket.create_connection(('{target.ip}', {port}), 2)"
    pid = cluster.engine.pid(source.sandbox)
    return subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", script], capture_output=True).returncode == 0


def test_network_policies_hold(cluster):
    """All that the platform did until here was allowed; what no policy names does not pass."""
    assert cluster.firewall.dropped() == 0 and not cluster.firewall.refused, cluster.firewall.refused
    [postgresql], [redis], [consul] = (cluster.of(server) for server in ("postgresql", "redis", "consul"))
    first = {component: cluster.of(component)[0] for component in (*chart.COMPONENTS, "application")}
    assert _connects(cluster, first["config"], postgresql, 5432)
    assert _connects(cluster, first["gateway"], redis, 6379)
    assert _connects(cluster, first["application"], consul, 8500)
    for source, target, port in (
        (first["registry"], postgresql, 5432),
        (first["gateway"], postgresql, 5432),
        (first["health"], redis, 6379),
        (first["application"], redis, 6379),
        (first["application"], first["config"], 8520),
        (first["registry"], first["config"], 8007),
        (postgresql, consul, 8500),
    ):
        assert not _connects(cluster, source, target, port), f"{source.name} reaches {target.name}:{port}"
    assert cluster.firewall.dropped() >= 7


def test_helm_test_pod_succeeds(cluster):
    [pod] = [d for d in cluster.documents if d["kind"] == "Pod"]
    # The proxy here tells Services apart by port, and all four have 8007: the pods stand for them.
    runner = pods.Pod(cluster, "plinth-test", pod["metadata"]["labels"], {**pod["spec"], "containers": []})
    cluster.pods.append(runner)
    runner.start()
    for container in pod["spec"]["containers"]:
        component = next(c for c, s in chart.COMPONENTS.items() if s == container["name"])
        address = cluster.of(component)[0].ip
        assert container["args"][1].startswith(f"http://plinth-{component}:8007/")
        asked = {**container, "args": [container["args"][0], container["args"][1].replace(f"plinth-{component}", address)]}
        done = cluster.engine.docker("run", "--rm", *runner._options(asked), check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        wrong = {**asked, "args": [asked["args"][0], asked["args"][1].replace("/health/ready", "/nothing")]}
        assert cluster.engine.docker("run", "--rm", *runner._options(wrong), check=False, timeout=60).returncode != 0


def test_rolling_update_loses_no_request(cluster):
    """`helm upgrade` with a changed setting: all four services, pod by pod, under constant load, without any retry."""
    token = _token(cluster, "services:read")
    tls = _mtls(cluster)
    proxy = Load(cluster.front, "/api/v1/users/1")
    registry = Load(cluster.registry, f"/api/v1/services/discover/{APPLICATION}", {"Authorization": f"Bearer {token}"}, tls=tls, per_second=20)
    try:
        until(lambda: proxy.sent() > 50 and registry.sent() > 20, 30, "the load runs")
        documents = chart.documents(chart.fresh(chart.merged(VALUES, {"log": {"level": "warn"}})))
        # An upgrade finds its Secrets and keeps them (`lookup`); templating alone makes new ones, so the old ones stay here.
        cluster.documents = [d for d in documents if d["kind"] != "Secret"] + [d for d in cluster.documents if d["kind"] == "Secret"]
        ended, errors = [], []

        def roll(deployment):
            try:
                ended.extend(cluster.roll(deployment))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=roll, args=(d,)) for d in chart.of_kind(documents, "Deployment")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        before = proxy.sent()
        until(lambda: proxy.sent() > before + 50, 30, "the load goes on")
    finally:
        proxy.end()
        registry.end()
    print(f"\nrolled: {proxy.sent()} requests through the gateway, {registry.sent()} to the registry; stopped in {[round(e.seconds, 1) for e in ended]} s")
    assert len(ended) == 8
    assert not [e for e in ended if e.exit != 0 or e.killed], ended
    assert not proxy.failures, (len(proxy.failures), proxy.failures[:5])
    assert not registry.failures, (len(registry.failures), registry.failures[:5])
    for pod in (p for c in chart.COMPONENTS for p in cluster.of(c)):
        values = {e["name"]: e.get("value") for e in pod.spec["containers"][0]["env"]}
        assert [v for n, v in values.items() if n.endswith("LOG__LEVEL")] == ["warn"], "an old pod is left"


@pytest.mark.parametrize("components", [("gateway",), ("application",), ("registry", "config", "health")], ids="+".join)
def test_a_killed_pod_costs_no_get_after_one_retry(cluster, components):
    load = Load(cluster.front, "/api/v1/users/1")
    # A retry that comes after the proxies have learned of it.
    load.retry_after = 1.5 * pods.LAG + 0.5
    try:
        until(lambda: load.sent() > 40, 30, "the load runs")
        victims = [cluster.of(component)[0] for component in components]
        before = [v.restarts for v in victims]
        for victim in victims:
            victim.kill()
        until(lambda: all(v.restarts > b for v, b in zip(victims, before)), 20, "it is seen")
        cluster.wait_ready(victims, 60)
        assert [v.restarts for v in victims] == [b + 1 for b in before]
        after = load.sent()
        until(lambda: load.sent() > after + 40, 30, "the load goes on")
    finally:
        load.end()
    print(f"\n{'+'.join(components)} killed: {load.sent()} requests, {load.retried} retried")
    assert not load.failures, (len(load.failures), load.failures[:5])
    if "registry" in components:
        assert load.retried == 0, "requests through the gateway depend on none of these"
