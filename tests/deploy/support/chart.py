"""The Helm chart, rendered by Helm's own engine (libhelm), and what the programs say about themselves."""

import copy
import functools
import json
import os
import re
import subprocess
from pathlib import Path

import helm_python
import yaml

ROOT = Path(os.environ.get("PLINTH_ROOT", Path(__file__).resolve().parents[3]))
CHART = ROOT / "helm" / "plinth"
RELEASE = "plinth"
NAMESPACE = "plinth"

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

COMPONENTS = {
    "registry": "registry-service",
    "config": "config-service",
    "health": "health-aggregator",
    "gateway": "gateway",
}

KONG = """\
_format_version: "3.0"
services:
  - name: user-service
    url: http://user-service.service.consul
    routes: [{ name: users, paths: [/api/v1/users], strip_path: false }]
plugins:
  - name: rate-limiting
    config:
      minute: 600
      policy: redis
      redis: { host: plinth-redis, password: "{vault://env/redis-password}" }
  - name: prometheus
    config: { status_code_metrics: true }
"""

EXTERNAL = {
    "auth": {"existingSecret": "company-auth", "tokens": {"existingSecret": "company-tokens"}},
    "consul": {
        "mode": "external",
        "address": "https://consul.example.org:8501",
        "peers": [{"ipBlock": {"cidr": "192.0.2.0/28"}}],
        "token": {"existingSecret": "company-consul-tokens"},
        "tls": {"existingSecret": "company-consul-tls", "clientCertificate": True},
    },
    "postgresql": {"mode": "external", "existingSecret": "company-postgresql", "peers": [{"ipBlock": {"cidr": "192.0.2.16/28"}}]},
    "redis": {"mode": "external", "existingSecret": "company-redis", "peers": [{"ipBlock": {"cidr": "192.0.2.32/28"}}]},
    "rabbitmq": {"mode": "external", "existingSecret": "company-rabbitmq", "peers": [{"ipBlock": {"cidr": "192.0.2.48/28"}}]},
}


def merged(*several):
    """Later ones win, maps are merged."""
    result = {}
    for one in several:
        for key, value in one.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = merged(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def _everywhere(values):
    return {component: copy.deepcopy(values) for component in COMPONENTS}


# Every way of installing that the chart knows.
CASES = {
    "defaults": {},
    "external": EXTERNAL,
    "ha": merged(
        EXTERNAL,
        _everywhere(
            {
                "autoscaling": {
                    "minReplicas": 3,
                    "maxReplicas": 20,
                    "requestRate": {"enabled": True, "target": "800"},
                },
                "priorityClassName": "platform",
                "tolerations": [{"key": "platform", "operator": "Exists"}],
                "nodeSelector": {"pool": "platform"},
            }
        ),
        {
            "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
            "gateway": {
                "service": {"type": "LoadBalancer", "port": 80, "tlsPort": 443},
                "tls": {"existingSecret": "gateway-tls"},
                "trustedIps": ["192.0.2.0/24"],
                "config": {"kong": KONG},
            },
            "serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}},
            "prometheusRule": {"enabled": True},
            "networkPolicy": {"monitoring": [{"namespaceSelector": {"matchLabels": {"team": "observability"}}}]},
            "telemetry": {"otlpEndpoint": "http://collector.observability:4318", "sampleRatio": 0.1},
        },
    ),
    "files": {"mtls": {"mode": "files", "clients": "required", "files": {"existingSecrets": {c: f"{c}-identity" for c in COMPONENTS}}}},
    "cert-manager": {
        "mtls": {
            "mode": "files",
            "allow": ["spiffe://cluster.local/ns/apps/sa/backoffice"],
            "files": {"certManager": {"enabled": True, "issuerRef": {"name": "internal"}}},
        }
    },
    "connect-external": merged(EXTERNAL, {"mtls": {"intentions": {"allow": ["backoffice"]}}}),
    "istio": {
        "mtls": {"mode": "istio"},
        "istio": {"clientNamespaces": ["apps"], "gateways": ["istio-system/public"], "hosts": ["api.example.org"]},
        "serviceMonitor": {"enabled": True},
    },
    "plain": {"mtls": {"mode": "off"}},
    "small": {
        "postgresql": {"mode": "none"},
        "redis": {"mode": "none"},
        "rabbitmq": {"mode": "none"},
        **_everywhere({"replicas": 1, "autoscaling": {"enabled": False}}),
        "consul": {"bundled": {"persistence": {"enabled": False}}},
    },
    "config-service": {"gateway": {"config": {"source": "config-service", "service": {"namespace": "edge", "environment": "live"}}}},
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["api.example.org"],
            "tls": [{"hosts": ["api.example.org"], "secretName": "api-tls"}],
        },
        "gateway": {
            "admin": {"enabled": True},
            "config": {"existingConfigMap": "our-kong"},
        },
        "networkPolicy": {
            "proxyClients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
            "adminClients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operations"}}}],
        },
        "resourceQuota": {"enabled": True, "hard": {"pods": "60", "requests.cpu": "20"}},
        "limitRange": {"enabled": True, "limits": [{"type": "Container", "defaultRequest": {"cpu": "50m", "memory": "64Mi"}}]},
    },
    "gateway-api": {
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}], "hostnames": ["api.example.org"]},
        "auth": {"jwksUrl": "https://id.example.org/jwks.json", "issuer": "https://id.example.org/", "signing": {"existingSecret": "company-signing"}},
    },
    "old-cluster": {"kubeVersion": "1.28"},
    "other-names": {"fullnameOverride": "edge", "nameOverride": "platform", "image": {"registry": "images.example.org", "tag": "1.2.3", "pullSecrets": ["pull"]}},
}


@functools.cache
def _chart():
    return helm_python.Chart.load(CHART)


def _documents(text):
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def fresh(values=None, name=RELEASE, namespace=NAMESPACE):
    """Texts by template, rendered now: with new secrets."""
    return _chart().render(values or {}, name=name, namespace=namespace)


@functools.cache
def _rendered(values):
    texts = fresh(json.loads(values))
    return documents(texts), next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


def documents(texts):
    return [d for path, text in texts.items() if not path.endswith(".txt") for d in _documents(text)]


def render(values=None):
    """All documents, as `helm template` gives them. The same values are rendered once: do not change what you get."""
    return _rendered(json.dumps(values or {}, sort_keys=True))[0]


def notes(values=None):
    return _rendered(json.dumps(values or {}, sort_keys=True))[1]


def refusal(values):
    """Why the chart does not take these values."""
    try:
        render(values)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError(f"the chart takes {json.dumps(values)}")


def lint(values=None, kube_version=None):
    report = helm_python.lint(CHART, values or {}, strict=True, namespace=NAMESPACE, kube_version=kube_version)
    return [m for m in report["messages"] if m["severity"] > 1], report["errors"]


def of_kind(documents, *kinds):
    return [d for d in documents if d["kind"] in kinds]


def named(documents, kind, name):
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind}/{name}: found {len(found)}"
    return found[0]


def pod_specs(documents):
    """(name, labels, pod specification) of everything that makes pods."""
    for d in documents:
        if d["kind"] in ("Deployment", "StatefulSet"):
            template = d["spec"]["template"]
            spec = template["spec"]
            claims = [t["metadata"]["name"] for t in d["spec"].get("volumeClaimTemplates", [])]
            if claims:
                volumes = [{"name": c, "persistentVolumeClaim": {"claimName": f'{c}-{d["metadata"]["name"]}-0'}} for c in claims]
                spec = {**spec, "volumes": spec["volumes"] + volumes}
            yield f'{d["kind"]}/{d["metadata"]["name"]}', template["metadata"]["labels"], spec
        elif d["kind"] == "Pod":
            yield f'Pod/{d["metadata"]["name"]}', d["metadata"]["labels"], d["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def program(name):
    """A program under test."""
    folder = os.environ.get("PLINTH_BIN_DIR")
    assert folder, "PLINTH_BIN_DIR is not set: it names the folder with registry-service, config-service, health-aggregator, gateway, plinth"
    path = Path(folder) / name
    assert path.is_file(), f"{path}: no such program; build it, or let PLINTH_BIN_DIR name another folder"
    return path


@functools.cache
def settings(name):
    """Variables that a service reads, from its own help."""
    text = subprocess.run([program(name), "--help"], check=True, capture_output=True, text=True).stdout
    names = set()
    for variables in re.findall(r"\benv ([^;\]]+)", text):
        plain = [word.strip() for word in variables.split(",")]
        secret = any("or a file" in word for word in plain)
        for variable in plain:
            if re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):
                names.add(variable)
                if secret:
                    names.add(f"{variable}_FILE")
    assert len(names) > 20, f"{name} --help was not understood"
    return frozenset(names)
