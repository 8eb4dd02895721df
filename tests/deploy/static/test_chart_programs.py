"""What the chart says about the programs is what they are: variables, ports, paths, files, metrics, images."""

import base64
import os
import re
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml
from support import chart
from support.ports import free_port

PREFIX = {"registry": "PLINTH_REGISTRY__", "config": "PLINTH_CONFIG__", "health": "PLINTH_HEALTH__", "gateway": "PLINTH_GATEWAY__"}
# Variables that no program's help names: Kubernetes' own, and what kong.yml may take from the environment.
OTHERS = {"POD_IP", "REDIS_PASSWORD"}


def _services(documents):
    for name, labels, spec in chart.pod_specs(documents):
        component = labels["app.kubernetes.io/component"]
        if component in chart.COMPONENTS:
            [container] = spec["containers"]
            yield component, spec, container


def _env(container):
    return {e["name"]: e.get("value") for e in container["env"]}


@pytest.mark.parametrize("case", chart.CASES)
def test_every_variable_exists_in_its_program(case):
    for component, _, container in _services(chart.render(chart.CASES[case])):
        names = [e["name"] for e in container["env"]]
        assert len(names) == len(set(names)), "a variable stands there twice"
        unknown = {n for n in names if n not in chart.settings(chart.COMPONENTS[component])} - OTHERS
        assert not unknown, f"{chart.COMPONENTS[component]} reads no {sorted(unknown)}"
        assert all(n.startswith(PREFIX[component]) for n in names if n not in OTHERS)


@pytest.mark.parametrize("case", chart.CASES)
def test_ports_are_those_the_programs_are_told_to_listen_on(case):
    documents = chart.render(chart.CASES[case])
    for component, _, container in _services(documents):
        listens = {
            int(re.search(r":(\d+)$", value)[1])
            for name, value in _env(container).items()
            if name.endswith("LISTEN") and not value.startswith("127.")
        }
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        assert set(ports.values()) == listens
        assert ports["status"] == 8007
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "status"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/health/live"


@pytest.mark.parametrize("case", chart.CASES)
def test_every_file_and_key_is_mounted(case):
    """Paths in variables and arguments lie in a mount; keys of chart-made Secrets and ConfigMaps are in them."""
    documents = chart.render(chart.CASES[case])
    made = {(d["kind"], d["metadata"]["name"]): set(d["data"]) for d in chart.of_kind(documents, "Secret", "ConfigMap")}
    certificates = {d["spec"]["secretName"] for d in chart.of_kind(documents, "Certificate")}
    given = set(re.findall(r"[-\w.]+", yaml.safe_dump(chart.CASES[case])))

    def check(kind, name, keys):
        if (kind, name) in made:
            assert keys <= made[kind, name], f"{kind} {name} has no {sorted(keys - made[kind, name])}"
        else:
            assert name in given or name in certificates, f"{kind} {name} is neither rendered nor named in the values"

    for pod, _, spec in chart.pod_specs(documents):
        volumes = {v["name"]: v for v in spec.get("volumes", [])}
        for container in chart.containers(spec):
            files = {}
            for mount in container.get("volumeMounts", []):
                volume = volumes.pop(mount["name"], None) or next(v for v in spec["volumes"] if v["name"] == mount["name"])
                source = volume.get("secret") or volume.get("configMap")
                if not source:
                    continue
                kind, name = ("Secret", source["secretName"]) if "secret" in volume else ("ConfigMap", source["name"])
                items = source.get("items")
                check(kind, name, {i["key"] for i in items} if items else set())
                files[mount["mountPath"]] = {i["path"] for i in items} if items else made.get((kind, name))
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    check("Secret", reference["name"], {reference["key"]})
            words = [e.get("value") or "" for e in container.get("env", [])] + container.get("args", [])
            for path in (w.split("=", 1)[-1] for w in words if re.match(r"(-[\w-]+=)?/(etc|var|data)/", w)):
                folder, file = path.rsplit("/", 1)
                mounts = {m["mountPath"] for m in container["volumeMounts"]}
                assert folder in mounts or path in mounts, f"{pod}: {path} is in no mount"
                if files.get(folder) is not None:
                    assert file in files[folder], f"{pod}: {path} is not in the mounted volume"
        assert not volumes, f"{pod}: nobody mounts {sorted(volumes)}"


def test_images_and_programs_are_the_dockerfiles():
    text = (chart.ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.M))
    for name, labels, spec in chart.pod_specs(chart.render()):
        for container in chart.containers(spec):
            if not container["image"].startswith("plinth/"):
                continue
            image, tag = container["image"].removeprefix("plinth/").split(":")
            assert image in targets, f"{name}: the Dockerfile makes no {image}"
            assert container["command"] == [f"/usr/local/bin/{image}"]
            assert f"/usr/local/bin/{image}" in text
    assert "65532" in text


def test_names_of_metrics_exist():
    """The adapter's rule in the chart's README, the autoscalers' metrics, and the reference of all metrics."""
    documented = set(re.findall(r"^\| `([a-z_]+)`", (chart.ROOT / "docs" / "metrics.md").read_text(), re.M))
    readme = (chart.CHART / "README.md").read_text()
    rules = yaml.safe_load(re.search(r"```yaml\n(rules:.*?)```", readme, re.S)[1])["rules"]["custom"]
    served = set()
    for rule in rules:
        [series] = re.findall(r"^([a-z_]+)\{", rule["seriesQuery"])
        assert series in documented and series in rule["metricsQuery"]
        served.add(rule["name"]["as"])
    for scaler in chart.of_kind(chart.render(chart.CASES["ha"]), "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods":
                assert metric["pods"]["metric"]["name"] in served


def test_rules_are_those_of_the_monitoring():
    """files/rules are copies; the rendered PrometheusRule has every group of them."""
    source = {p.name: p.read_text() for p in (chart.ROOT / "infrastructure/prometheus/rules").glob("*.yml")}
    copies = {p.name: p.read_text() for p in (chart.CHART / "files/rules").glob("*.yml")}
    assert source and source == copies, "run: python3 k8s/render.py"
    [rule] = chart.of_kind(chart.render(chart.CASES["ha"]), "PrometheusRule")
    groups = {g["name"]: g for text in source.values() for g in yaml.safe_load(text)["groups"]}
    assert {g["name"]: g for g in rule["spec"]["groups"]} == groups
    jobs = {r["replacement"] for m in chart.of_kind(chart.render(chart.CASES["ha"]), "ServiceMonitor") for r in m["spec"]["endpoints"][0]["relabelings"]}
    assert jobs == set(chart.COMPONENTS.values())


# The rendered commands, started on this machine.

LOCAL = chart.merged(chart.CASES["small"], {"listenAddress": "127.0.0.1", "shutdown": {"preStopSeconds": 0, "drainDelaySeconds": 0}})


# Identities of Connect carry SPIFFE ids, not host names.
TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=2, context=TRUSTING) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _until(question, seconds, what):
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = question()
            if answer:
                return answer
        except OSError:
            pass
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class _Programs:
    def __init__(self):
        self.running = []

    def start(self, command, env, log):
        process = subprocess.Popen(command, env=env, stdout=log.open("wb"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.running.append(process)
        return process

    def end(self):
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.parametrize("mode", ["off", "connect"])
def test_rendered_commands_run_and_answer_their_probes(tmp_path, mode):
    """Each container's command with its environment and files: started, ready by its own probes, healthy by its own program."""
    documents = chart.render(chart.merged(LOCAL, {"mtls": {"mode": mode}}))
    programs = _Programs()
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PLINTH_", "CONSUL_", "KONG_"))}
    plain["PLINTH_BIN_DIR"] = os.environ.get("PLINTH_BIN_DIR", "")
    try:
        consul = free_port()
        programs.start(
            [chart.program("plinth"), "agent", "--in-memory", "--connect", "--http-port", str(consul)], plain, tmp_path / "agent.log"
        )
        _until(lambda: _get(f"http://127.0.0.1:{consul}/v1/status/leader")[0] == 200, 20, "the agent answers")
        status, main = {}, {}
        for component, spec, container in _services(documents):
            folder = tmp_path / component
            for volume in spec["volumes"]:
                below = folder / volume["name"]
                below.mkdir(parents=True)
                source = volume.get("secret") or volume.get("configMap")
                if source:
                    kind = "Secret" if "secret" in volume else "ConfigMap"
                    data = chart.named(documents, kind, source.get("secretName") or source["name"])["data"]
                    items = {i["key"]: i["path"] for i in source.get("items", [])} or {k: k for k in data}
                    for key, path in items.items():
                        content = base64.b64decode(data[key]) if kind == "Secret" else data[key].encode()
                        (below / path).write_bytes(content)
                        (below / path).chmod(0o440)

            def here(word, container):
                """The word with mounts as folders of this test."""
                for mount in container["volumeMounts"]:
                    word = re.sub(rf"^{re.escape(mount['mountPath'])}(?=/|$)", str(folder / mount["name"]), word)
                return word

            for init in spec.get("initContainers", []):
                words = [here(word, init) for word in init["args"]]
                subprocess.run([chart.program(os.path.basename(init["command"][0])), *words], env=plain, check=True, timeout=20)
            ports = {p["containerPort"]: free_port() for p in container["ports"]}
            ports[8001] = free_port()
            env = dict(plain)
            for name, value in _env(container).items():
                value = "127.0.0.1" if name == "POD_IP" else value
                if name.endswith("CONSUL__ADDRESS"):
                    value = f"http://127.0.0.1:{consul}"
                value = here(value, container)
                env[name] = re.sub(r":(\d{4})$", lambda m: f":{ports.get(int(m[1]), m[1])}", value) if name.endswith("LISTEN") else value
            service = chart.COMPONENTS[component]
            process = programs.start([chart.program(os.path.basename(container["command"][0]))], env, tmp_path / f"{service}.log")
            if component != "gateway":
                main[component] = next(ports[p["containerPort"]] for p in container["ports"] if p["name"] == "api")
            status[component] = (f"http://127.0.0.1:{ports[8007]}", env, process)
        for component, spec, container in _services(documents):
            base, env, process = status[component]
            log = tmp_path / f"{chart.COMPONENTS[component]}.log"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]

                def answers():
                    assert process.poll() is None, f"{log.name}:\n{log.read_text()[-3000:]}"
                    return _get(base + path)[0] == 200

                _until(answers, 30, f"{component} {path}\n{log.read_text()[-2000:]}")
            assert _get(base + "/nothing-here")[0] == 404, "a path that is not there would pass, too"
            checked = subprocess.run([chart.program(chart.COMPONENTS[component]), "healthcheck"], env=env, capture_output=True, text=True, timeout=20)
            assert checked.returncode == 0, checked.stderr
            metrics = _get(base + "/metrics")[1]
            name = "gateway_requests_total" if component == "gateway" else "http_server_requests_total"
            assert name in metrics
        # The test pod's command, against the same listeners.
        [test] = [spec for name, _, spec in chart.pod_specs(documents) if name.startswith("Pod/")]
        for container in test["containers"]:
            component = next(c for c, s in chart.COMPONENTS.items() if s == container["name"])
            words = [re.sub(r"^http://[^/]+:8007", status[component][0], word) for word in container["args"]]
            subprocess.run([chart.program("plinth"), *words], env=plain, check=True, timeout=20)
        for component, port in main.items():
            address = f"{'https' if mode == 'connect' else 'http'}://127.0.0.1:{port}/health/live"
            assert _get(address)[0] == 200, f"{component} does not speak what mtls.mode={mode} says"
        # Everybody registered, and the aggregator sees them pass with the token its init container signed.
        catalog = f"http://127.0.0.1:{consul}/v1/health/service"
        for service in chart.COMPONENTS.values():
            _until(lambda: '"ServiceID"' in _get(f"{catalog}/{service}?passing=true")[1], 30, f"{service} passes in the catalog")
    finally:
        programs.end()
    assert all(p.returncode == 0 for p in programs.running), [(p.args, p.returncode) for p in programs.running]
