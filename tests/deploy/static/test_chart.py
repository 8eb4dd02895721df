"""The chart renders for every way of installing it, Kubernetes takes what it renders, and what cannot work is refused."""

import base64
import re
import subprocess

import pytest
import yaml
from support import chart, schemas

# Kinds that Kubernetes has no schema of: the operators' own. What of them we use is checked below.
FOREIGN = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "VirtualService"),
    ("cert-manager.io/v1", "Certificate"),
}


@pytest.mark.parametrize("case", chart.CASES)
def test_helm_lint_has_nothing_to_say(case):
    messages, errors = chart.lint(chart.CASES[case])
    assert not messages and not errors


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_kubernetes_takes_every_document(version):
    checked = 0
    for case, values in chart.CASES.items():
        # The one difference between versions is preStop (before 1.30 there is no sleep).
        versioned = {"kubeVersion": "1.28"} if version in ("1.28", "1.29") else {}
        for document in chart.render(chart.merged(values, versioned)):
            if (document["apiVersion"], document["kind"]) in FOREIGN:
                continue
            faults = schemas.faults(document, version)
            assert not faults, f'{case}: {document["kind"]}/{document["metadata"]["name"]}: {faults}'
            checked += 1
    assert checked > 400


def test_a_wrong_document_would_be_seen():
    import copy

    deployment = copy.deepcopy(chart.named(chart.render(), "Deployment", "plinth-gateway"))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["lifecycle"] = {"preStop": {"slep": {"seconds": 5}}}
    assert any("slep" in fault for fault in schemas.faults(deployment, "1.34"))
    # 1.28 has no sleep at all: the chart must not render it there.
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": 5}}}
    assert schemas.faults(deployment, "1.28") and not schemas.faults(deployment, "1.30")


def test_every_foreign_kind_is_rendered_by_some_case():
    seen = {(d["apiVersion"], d["kind"]) for values in chart.CASES.values() for d in chart.render(values)}
    assert FOREIGN <= seen


@pytest.mark.parametrize("case", chart.CASES)
def test_names_labels_and_references(case):
    documents = chart.render(chart.CASES[case])
    identities = [(d["kind"], d["metadata"]["name"]) for d in documents]
    assert len(identities) == len(set(identities)), "two documents have the same name"
    for d in documents:
        assert d["metadata"]["namespace"] == chart.NAMESPACE
        assert len(d["metadata"]["name"]) <= 63
        assert d["metadata"]["labels"]["app.kubernetes.io/instance"] == chart.RELEASE
    names = set(identities)
    pods = list(chart.pod_specs(documents))
    for d in chart.of_kind(documents, "Service"):
        chosen = [spec for _, labels, spec in pods if d["spec"]["selector"].items() <= labels.items()]
        assert len(chosen) == 1, f'{d["metadata"]["name"]} selects {len(chosen)} kinds of pods'
        ports = {p["name"] for c in chart.containers(chosen[0]) for p in c.get("ports", [])}
        assert {p["targetPort"] for p in d["spec"]["ports"]} <= ports
    for d in chart.of_kind(documents, "HorizontalPodAutoscaler"):
        target = chart.named(documents, "Deployment", d["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "an upgrade would undo what the autoscaler did"
    for d in chart.of_kind(documents, "PodDisruptionBudget"):
        assert [1 for _, labels, _ in pods if d["spec"]["selector"]["matchLabels"].items() <= labels.items()] == [1]
    for name, _, spec in pods:
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names, name
    for d in chart.of_kind(documents, "Ingress"):
        for rule in d["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = chart.named(documents, "Service", path["backend"]["service"]["name"])
                assert path["backend"]["service"]["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}
    for d in chart.of_kind(documents, "HTTPRoute"):
        for backend in d["spec"]["rules"][0]["backendRefs"]:
            service = chart.named(documents, "Service", backend["name"])
            assert backend["port"] in {p["port"] for p in service["spec"]["ports"]}
    for d in chart.of_kind(documents, "ServiceMonitor"):
        chosen = [s for s in chart.of_kind(documents, "Service") if d["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()]
        assert [p for s in chosen for p in s["spec"]["ports"] if p["name"] == "status"], "nothing to scrape"


@pytest.mark.parametrize("case", chart.CASES)
def test_pods_are_restricted(case):
    """The Pod Security Standard `restricted`, and a read-only root on top."""
    documents = chart.render(chart.CASES[case])
    for account in chart.of_kind(documents, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for name, _, spec in chart.pod_specs(documents):
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec.get("volumes", []):
            assert {"configMap", "secret", "emptyDir", "persistentVolumeClaim"} & volume.keys(), f"{name}: {volume}"
        for container in chart.containers(spec):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]} and context["runAsUser"] > 0
            assert not context["privileged"]
            assert {"requests", "limits"} <= container["resources"].keys(), f"{name}/{container['name']}"
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_user_is_the_images_own():
    for name, labels, spec in chart.pod_specs(chart.render()):
        if labels["app.kubernetes.io/component"] in chart.COMPONENTS:
            assert spec["securityContext"]["runAsUser"] == 65532, name


def test_stopping_fits_the_grace_period():
    """preStop + the service's own limit end before the kubelet kills; serving goes on while endpoints change."""
    for version, native in (("1.28", False), ("1.29", False), ("1.30", True), ("1.37", True)):
        shutdown = {"preStopSeconds": 7, "drainDelaySeconds": 6, "timeoutSeconds": 40}
        documents = chart.render({"kubeVersion": version, "shutdown": shutdown})
        for d in chart.of_kind(documents, "Deployment"):
            spec = d["spec"]["template"]["spec"]
            [container] = spec["containers"]
            env = {e["name"].split("__", 1)[-1]: e.get("value") for e in container["env"]}
            drain, limit = int(env["SHUTDOWN__DRAIN_DELAY"][:-1]), int(env["SHUTDOWN__TIMEOUT"][:-1])
            wait = container["lifecycle"]["preStop"]["sleep"]["seconds"] if native else 0
            assert ("lifecycle" in container) == native
            assert wait + drain == 13, "the time in which a stopping pod still serves is the same either way"
            assert wait + limit < spec["terminationGracePeriodSeconds"]
            assert d["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_autoscalers_measure_what_is_asked():
    [plain] = [h for h in chart.of_kind(chart.render(), "HorizontalPodAutoscaler") if h["metadata"]["name"] == "plinth-gateway"]
    assert [m["type"] for m in plain["spec"]["metrics"]] == ["Resource"]
    for scaler in chart.of_kind(chart.render(chart.CASES["ha"]), "HorizontalPodAutoscaler"):
        assert [m["type"] for m in scaler["spec"]["metrics"]] == ["Resource", "Pods"]
        assert scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300


def _secret(documents, name):
    return {k: base64.b64decode(v).decode() for k, v in chart.named(documents, "Secret", name)["data"].items()}


def test_generated_secrets_are_random_and_belong_together(tmp_path):
    first, second = chart.documents(chart.fresh()), chart.documents(chart.fresh())
    for documents in (first, second):
        key, public = _secret(documents, "plinth-signing")["token-key.pem"], _secret(documents, "plinth-auth")["auth.pub.pem"]
        (tmp_path / "key").write_text(key)
        derived = subprocess.run(["openssl", "pkey", "-in", tmp_path / "key", "-pubout"], check=True, capture_output=True, text=True).stdout
        assert derived == public
        for server, scheme in (("postgresql", "postgres"), ("rabbitmq", "amqp")):
            secret = _secret(documents, f"plinth-{server}")
            assert re.match(rf"{scheme}://plinth:{secret['password']}@plinth-{server}:\d+/", secret["url"])
            assert len(secret["password"]) == 40
    for name in ("plinth-signing", "plinth-auth", "plinth-postgresql", "plinth-redis", "plinth-rabbitmq"):
        assert _secret(first, name) != _secret(second, name), f"{name} is the same in two installations"


def test_own_secrets_stay_out_of_environment_and_other_pods():
    documents = chart.render(chart.CASES["config-service"])
    for name, _, spec in chart.pod_specs(documents):
        secrets = {v["name"]: v["secret"]["secretName"] for v in spec.get("volumes", []) if "secret" in v}
        for container in spec["containers"]:
            mounted = {secrets.get(m["name"]) for m in container.get("volumeMounts", [])}
            assert "plinth-signing" not in mounted, f"{name}: only init containers may sign"
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                # Kong's format takes a password from the environment, or not at all.
                assert not reference or variable["name"] == "REDIS_PASSWORD", f"{name}: {variable['name']}"


def test_no_secret_is_made_when_all_are_given():
    assert not chart.of_kind(chart.render(chart.CASES["external"]), "Secret")


def test_config_changes_reach_pods():
    """Chart-made secrets change the pods' checksum; a new kong.yml reloads, or rolls on request."""

    def annotations(values):
        return chart.named(chart.render(values), "Deployment", "plinth-gateway")["spec"]["template"]["metadata"]["annotations"]

    roll = {"gateway": {"config": {"rollOnChange": True}}}
    changed = chart.merged(roll, {"gateway": {"config": {"kong": chart.KONG}}})
    assert annotations(roll)["checksum/kong"] != annotations(changed)["checksum/kong"]
    assert "checksum/kong" not in annotations({})
    external = chart.CASES["external"]
    assert annotations(external)["checksum/secrets"] == annotations(external)["checksum/secrets"]


def test_one_writer_of_sqlite():
    small = chart.render(chart.CASES["small"])
    config = chart.named(small, "Deployment", "plinth-config")
    assert config["spec"]["replicas"] == 1 and config["spec"]["strategy"]["type"] == "Recreate"
    chart.named(small, "PersistentVolumeClaim", "plinth-config")
    assert not [h for h in chart.of_kind(small, "HorizontalPodAutoscaler")]


REFUSED = {
    "misspelt": ({"gatway": {}}, "additional properties 'gatway' not allowed"),
    "misspelt deeply": ({"registry": {"autoscaling": {"minReplica": 3}}}, "'minReplica' not allowed"),
    "wrong type": ({"config": {"replicas": "many"}}, "/config/replicas"),
    "no such mode": ({"mtls": {"mode": "tls"}}, "/mtls/mode"),
    "replicas on SQLite": (
        {"postgresql": {"mode": "none"}, "config": {"replicas": 2, "autoscaling": {"enabled": False}}},
        "config.replicas=1",
    ),
    "autoscaler on SQLite": ({"postgresql": {"mode": "none"}, "config": {"replicas": 1}}, "config.autoscaling.enabled=false"),
    "no PostgreSQL URL": ({"postgresql": {"mode": "external"}}, "postgresql.existingSecret is missing"),
    "no RabbitMQ URL": ({"rabbitmq": {"mode": "external"}}, "rabbitmq.existingSecret is missing"),
    "no Consul address": ({"consul": {"mode": "external"}}, "consul.address is missing"),
    "token for the bundled Consul": ({"consul": {"token": {"existingSecret": "t"}}}, "set consul.mode=external"),
    "shared limits without Redis": (
        {
            "redis": {"mode": "none"},
            "gateway": {
                "config": {
                    "kong": '_format_version: "3.0"\nservices:\n- name: a\n  url: http://a\n  plugins:\n  - name: rate-limiting\n    config: {minute: 5, policy: redis}\n'
                }
            },
        },
        "policy redis, but redis.mode is none",
    ),
    "another Redis than the bundled one": (
        {"gateway": {"config": {"kong": chart.KONG.replace("plinth-redis", "redis")}}},
        "host redis, but the bundled Redis is plinth-redis",
    ),
    "the seed's old fields": (
        {"gateway": {"config": {"kong": (chart.ROOT / "infrastructure/kong/kong.yml").read_text()}}},
        "the bundled Redis is plinth-redis",
    ),
    "kong.yml is no YAML": ({"gateway": {"config": {"kong": "a: ["}}}, "gateway.config.kong is not YAML"),
    "kong.yml is no Kong file": ({"gateway": {"config": {"kong": "a: 1\n"}}}, "_format_version"),
    "two sources of kong.yml": ({"gateway": {"config": {"existingConfigMap": "a", "existingSecret": "b"}}}, "give one of them"),
    "own key, no tokens": ({"auth": {"existingSecret": "k"}}, "auth.tokens.existingSecret is missing"),
    "key and JWKS": ({"auth": {"existingSecret": "k", "jwksUrl": "https://id/jwks", "signing": {"existingSecret": "s"}}}, "auth.existingSecret and auth.jwksUrl"),
    "own issuer, generated key": ({"auth": {"issuer": "company"}}, "auth.issuer and auth.audience must stay plinth"),
    "files without certificates": ({"mtls": {"mode": "files"}}, "mtls.files.existingSecrets.config is missing"),
    "cert-manager without issuer": ({"mtls": {"mode": "files", "files": {"certManager": {"enabled": True}}}}, "issuerRef.name is missing"),
    "least above most": ({"gateway": {"autoscaling": {"minReplicas": 30}}}, "gateway.autoscaling.minReplicas is above maxReplicas"),
    "scaling without a request": ({"gateway": {"resources": {"requests": {"cpu": None}}}}, "gateway.resources.requests.cpu is missing"),
    "drain as long as the limit": ({"shutdown": {"drainDelaySeconds": 30}}, "shutdown.drainDelaySeconds must be below"),
    "ingress without host": ({"ingress": {"enabled": True}}, "/ingress/hosts"),
    "two ways in": ({"ingress": {"enabled": True, "hosts": ["a"]}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}}, "choose one way in"),
    "route without gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is missing"),
    "quota without numbers": ({"resourceQuota": {"enabled": True}}, "resourceQuota.hard is missing"),
    "admin by load balancer": ({"registry": {"service": {"type": "LoadBalancer"}}}, "/registry/service/type"),
    "address that is none": ({"listenAddress": "everywhere"}, "/listenAddress"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_its_reason(case):
    values, reason = REFUSED[case]
    assert reason in chart.refusal(values)


def test_all_faults_are_told_at_once():
    text = chart.refusal({"postgresql": {"mode": "external"}, "rabbitmq": {"mode": "external"}, "consul": {"mode": "external"}})
    for name in ("postgresql.existingSecret", "rabbitmq.existingSecret", "consul.address"):
        assert name in text


def test_every_value_has_a_place_in_the_schema():
    """additionalProperties is false wherever the chart reads named values, so a value without a place would refuse itself."""
    schema = chart._chart().schema

    def strict(node, path):
        if node.get("type") == "object" and "properties" in node:
            assert node.get("additionalProperties") is False, path
            for name, below in node["properties"].items():
                strict(below, f"{path}.{name}")

    strict(schema, "")
    for name, below in schema["$defs"].items():
        strict(below, name)
    assert set(yaml.safe_load((chart.CHART / "values.yaml").read_text())) <= set(schema["properties"])


def test_notes_say_how_to_go_on():
    text = chart.notes()
    for part in ("port-forward service/plinth-gateway", "helm -n plinth test plinth", "get secret plinth-signing", "FOR TRIAL ONLY"):
        assert part in text
    assert "FOR TRIAL ONLY" not in chart.notes(chart.CASES["external"])
    assert "ConfigMap plinth-intentions" in chart.notes(chart.CASES["external"])
    assert "https://api.example.org/" in chart.notes(chart.CASES["ingress"])


def test_the_chart_can_be_packaged(tmp_path):
    import helm_python

    archive = helm_python.package(chart.CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed:
        assert packed.version == yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["version"]
        assert {f["name"] for f in packed.files} >= {f"files/rules/{p.name}" for p in (chart.CHART / "files/rules").glob("*.yml")}


def test_version_is_the_workspaces():
    import tomllib

    cargo = tomllib.loads((chart.ROOT / "Cargo.toml").read_text())
    facts = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert facts["appVersion"] == facts["version"] == cargo["workspace"]["package"]["version"]
