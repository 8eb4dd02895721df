#!/usr/bin/env python3
"""Writes what is made from the chart: k8s/base and k8s/overlays for kustomize, infrastructure/istio, the chart's copies of rules.

    python3 -m pip install -r tests/deploy/requirements.txt
    python3 k8s/render.py            # writes
    python3 k8s/render.py --check    # only compares, exits 1 on a difference

The chart is the one source. The base is the chart with everything external; an overlay has its own objects, removes what
it does not need, and patches the rest, so that `kubectl kustomize k8s/overlays/<name>` gives what Helm gives with the
overlay's values (tests/deploy/static/test_k8s.py compares the two).
"""

import difflib
import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "deploy"))

from support import chart  # noqa: E402

HEADER = "# Made by k8s/render.py from helm/plinth: change that, not this.\n"

# Without Helm nothing makes secrets: they have names here, and k8s/overlays/dev/secrets.sh or you fill them.
SECRETS = {
    "auth": {"existingSecret": "plinth-auth", "signing": {"existingSecret": "plinth-signing"}},
    "postgresql": {"existingSecret": "plinth-postgresql"},
    "redis": {"existingSecret": "plinth-redis"},
    "rabbitmq": {"existingSecret": "plinth-rabbitmq"},
}
BASE = chart.merged(
    SECRETS,
    {
        "consul": {"mode": "external", "address": "http://consul.consul:8500"},
        "postgresql": {"mode": "external"},
        "redis": {"mode": "external"},
        "rabbitmq": {"mode": "external"},
    },
)
ONE = {"replicas": 1, "autoscaling": {"enabled": False}}
OVERLAYS = {
    # One of everything, with the trial servers.
    "dev": chart.merged(
        SECRETS,
        {name: {"mode": "bundled"} for name in ("consul", "postgresql", "redis", "rabbitmq")},
        {component: ONE for component in chart.COMPONENTS},
        {"log": {"level": "debug"}, "networkPolicy": {"clients": [{"namespaceSelector": {}}]}},
    ),
    # Your own servers over TLS, three of everything at least, spread strictly.
    "prod": chart.merged(
        BASE,
        {component: {"autoscaling": {"minReplicas": 3, "maxReplicas": 12}} for component in chart.COMPONENTS},
        {
            "consul": {
                "address": "https://consul.consul:8501",
                "tls": {"existingSecret": "plinth-consul-tls"},
                "token": {"existingSecret": "plinth-consul-tokens"},
                "peers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "consul"}}}],
            },
            "gateway": {"tls": {"existingSecret": "plinth-gateway-tls"}, "service": {"type": "LoadBalancer", "port": 80, "tlsPort": 443}},
            "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
            "mtls": {"clients": "optional"},
        },
    ),
}
ISTIO_KINDS = ("PeerAuthentication", "AuthorizationPolicy", "DestinationRule", "VirtualService")
ISTIO = {"mtls": {"mode": "istio"}, "istio": {"gateways": ["istio-system/public"], "hosts": ["plinth.example.org"]}}


def _without_helm(documents):
    """Objects for kubectl: without hooks (`helm test`), and without Helm's word on who manages them."""
    for document in documents:
        if "helm.sh/hook" in document["metadata"].get("annotations", {}):
            continue
        document = yaml.safe_load(yaml.safe_dump(document))
        _strip(document)
        yield document


def _strip(node):
    if isinstance(node, dict):
        labels, annotations = node.get("labels"), node.get("annotations")
        if isinstance(labels, dict) and "app.kubernetes.io/managed-by" in labels:
            labels.pop("helm.sh/chart")
            labels["app.kubernetes.io/managed-by"] = "kustomize"
        if isinstance(annotations, dict):
            # The checksum of secrets that Helm would make: there are none here.
            annotations.pop("checksum/secrets", None)
            annotations.pop("helm.sh/resource-policy", None)
            if not annotations:
                node.pop("annotations")
        for value in node.values():
            _strip(value)
    elif isinstance(node, list):
        for value in node:
            _strip(value)


def objects(values):
    """By (kind, name)."""
    return {(d["kind"], d["metadata"]["name"]): d for d in _without_helm(chart.render(values))}


def changes(old, new, path=""):
    """The JSON patch from one document to the other. Members of lists are known by their name, else by what they are."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            here = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": here}
            elif key not in old:
                yield {"op": "add", "path": here, "value": new[key]}
            else:
                yield from changes(old[key], new[key], here)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_changes(old, new, path)
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}


def _list_changes(old, new, path):
    def identity(member):
        return member["name"] if isinstance(member, dict) and "name" in member else json.dumps(member, sort_keys=True)

    runs = difflib.SequenceMatcher(None, [identity(m) for m in old], [identity(m) for m in new], autojunk=False).get_opcodes()
    # From the end, so that the places before stay as they were.
    for kind, old_from, old_to, new_from, new_to in reversed(runs):
        if kind == "equal":
            for offset in reversed(range(old_to - old_from)):
                yield from changes(old[old_from + offset], new[new_from + offset], f"{path}/{old_from + offset}")
            continue
        for place in reversed(range(old_from, old_to)):
            yield {"op": "remove", "path": f"{path}/{place}"}
        for member in reversed(new[new_from:new_to]):
            yield {"op": "add", "path": f"{path}/{old_from}", "value": member}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(str, lambda dumper, s: dumper.represent_scalar("tag:yaml.org,2002:str", s, style="|" if "\n" in s else None))


def dump(*documents):
    return HEADER + "---\n".join(yaml.dump(d, Dumper=_Dumper, sort_keys=False, width=150) for d in documents)


FILES = {
    "workloads": ("Deployment", "StatefulSet", "PersistentVolumeClaim"),
    "services": ("Service", "ServiceAccount", "ConfigMap"),
    "scaling": ("HorizontalPodAutoscaler", "PodDisruptionBudget"),
    "network": ("NetworkPolicy",),
}


def _files(found):
    """Documents by the file that has them."""
    files = {}
    for name, kinds in FILES.items():
        chosen = [d for (kind, _), d in sorted(found.items()) if kind in kinds]
        if chosen:
            files[f"{name}.yaml"] = dump(*chosen)
    rest = {kind for kind, _ in found} - {k for kinds in FILES.values() for k in kinds}
    assert not rest, f"k8s/render.py has no file for {rest}"
    return files


def kustomization(**fields):
    return dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **fields})


NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": chart.NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}},
}


def rendered():
    """Every file, by its path below the checkout."""
    files = {}
    base = objects(BASE)
    below = _files(base)
    for name, text in below.items():
        files[f"k8s/base/{name}"] = text
    files["k8s/base/namespace.yaml"] = dump(NAMESPACE)
    files["k8s/base/kustomization.yaml"] = kustomization(resources=["namespace.yaml", *sorted(below)])
    for overlay, values in OVERLAYS.items():
        folder = f"k8s/overlays/{overlay}"
        own = objects(values)
        added = {key: d for key, d in own.items() if key not in base}
        resources = _files(added)
        for name, text in resources.items():
            files[f"{folder}/{name}"] = text
        patches = []
        for (kind, name), document in sorted(base.items()):
            api = document["apiVersion"]
            group, version = api.split("/") if "/" in api else ("", api)
            target = {"group": group, "version": version, "kind": kind, "name": name}
            if (kind, name) not in own:
                patches.append({"patch": yaml.dump({"$patch": "delete", "apiVersion": api, "kind": kind, "metadata": {"name": name}}, sort_keys=False), "target": target})
            else:
                steps = list(changes(document, own[kind, name]))
                if steps:
                    patches.append({"patch": yaml.dump(steps, Dumper=_Dumper, sort_keys=False, width=150), "target": target})
        for patch in patches:
            if not patch["target"]["group"]:
                patch["target"].pop("group")
        fields = {"resources": ["../../base", *sorted(resources)], "patches": patches}
        if overlay == "dev":
            # From files that secrets.sh makes; they are not in the repository.
            fields["secretGenerator"] = [
                {"name": name, "namespace": chart.NAMESPACE, "files": [f"secrets/{name}/{key}" for key in keys]} for name, keys in DEV_SECRETS.items()
            ]
            fields["generatorOptions"] = {"disableNameSuffixHash": True}
        files[f"{folder}/kustomization.yaml"] = kustomization(**fields)
    istio = [d for (kind, _), d in sorted(objects(chart.merged(BASE, ISTIO)).items()) if kind in ISTIO_KINDS]
    for kind in ISTIO_KINDS:
        name = "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).lstrip("-")
        files[f"infrastructure/istio/{name}.yaml"] = dump(*[d for d in istio if d["kind"] == kind])
    for rule in sorted((ROOT / "infrastructure/prometheus/rules").glob("*.yml")):
        files[f"helm/plinth/files/rules/{rule.name}"] = rule.read_text()
    return files


DEV_SECRETS = {
    "plinth-auth": ["auth.pub.pem"],
    "plinth-signing": ["token-key.pem"],
    "plinth-postgresql": ["password", "url"],
    "plinth-redis": ["password", "redis.conf"],
    "plinth-rabbitmq": ["password", "url", "rabbitmq.conf"],
}


def owned():
    """Files in the repository that this script writes."""
    for pattern in ("k8s/base/*.yaml", "k8s/overlays/*/*.yaml", "infrastructure/istio/*.yaml", "helm/plinth/files/rules/*.yml"):
        yield from (str(p.relative_to(ROOT)) for p in ROOT.glob(pattern))


def differences():
    files = rendered()
    for path in sorted(files.keys() | set(owned())):
        there = ROOT / path
        if path not in files:
            yield path, "is not made by k8s/render.py any more"
        elif not there.is_file():
            yield path, "is missing"
        elif there.read_text() != files[path]:
            yield path, "differs from what the chart gives"


def main():
    if sys.argv[1:] == ["--check"]:
        wrong = list(differences())
        for path, why in wrong:
            print(f"{path} {why}", file=sys.stderr)
        sys.exit(1 if wrong else 0)
    if sys.argv[1:]:
        sys.exit(__doc__)
    files = rendered()
    for path in set(owned()) - files.keys():
        (ROOT / path).unlink()
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)


if __name__ == "__main__":
    main()
