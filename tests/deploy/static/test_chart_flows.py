"""Every flow between components is allowed by a NetworkPolicy, and nothing else is."""

import pytest
from support import chart
from support.network import Place, allowed

PORTS = {53, 80, 443, 5432, 5672, 6379, 8000, 8001, 8007, 8300, 8301, 8443, 8500, 8510, 8520, 8530, 9090, 15672}

# Who calls whom, and where: the documented flows of the platform. `everybody` is every place below.
SERVICES = ("registry", "config", "health", "gateway")
FLOWS = {
    ("registry", "health"): {8530},  # last probe times
    ("health", "health"): {8530, 8007},  # a second opinion on an outage; the probe of a member
    ("health", "registry"): {8007},  # probes
    ("health", "config"): {8007},
    ("health", "gateway"): {8007, 8000},  # the gateway is registered with its proxy port
    ("gateway", "registry"): {8510},  # the platform's own APIs, when routed
    ("gateway", "config"): {8520},
    ("gateway", "health"): {8530},
    ("registry", "consul"): {8500},
    ("config", "consul"): {8500},
    ("health", "consul"): {8500},
    ("gateway", "consul"): {8500},
    ("config", "postgresql"): {5432},
    ("config", "rabbitmq"): {5672},
    ("gateway", "redis"): {6379},
    ("client", "registry"): {8510},
    ("client", "config"): {8520},
    ("client", "health"): {8530},
    **{("monitoring", service): {8007} for service in SERVICES},
    **{("test", service): {8007} for service in SERVICES},
    # Applications listen where they like.
    ("gateway", "application"): PORTS,
    ("health", "application"): PORTS,
}
PART = ("app.kubernetes.io/part-of", "plinth")
SERVERS = ("consul", "postgresql", "redis", "rabbitmq")


def _own(component):
    return Place(
        component,
        chart.NAMESPACE,
        (("app.kubernetes.io/name", "plinth"), ("app.kubernetes.io/instance", chart.RELEASE), ("app.kubernetes.io/component", component), PART),
        (("kubernetes.io/metadata.name", chart.NAMESPACE),),
    )


def _other(name, namespace, labels=(), more=()):
    return Place(name, namespace, labels, (("kubernetes.io/metadata.name", namespace), *more))


def _places():
    own = [_own(c) for c in (*SERVICES, *SERVERS, "test")]
    return {
        place.name: place
        for place in (
            *own,
            _other("client", "shop", (("app", "shop"),), (("plinth/client", "true"),)),
            _other("application", "apps", (("app", "users"),)),
            _other("stranger", chart.NAMESPACE, (("app", "debug"),)),
            # a second installation in the same namespace
            Place(
                "neighbour",
                chart.NAMESPACE,
                (("app.kubernetes.io/name", "plinth"), ("app.kubernetes.io/instance", "other"), ("app.kubernetes.io/component", "gateway"), PART),
                (("kubernetes.io/metadata.name", chart.NAMESPACE),),
            ),
            _other("monitoring", "monitoring", (("app", "prometheus"),)),
            _other("ingress", "ingress-nginx", (("app", "nginx"),)),
            _other("dns", "kube-system", (("k8s-app", "kube-dns"),)),
            _other("kube-system", "kube-system", (("k8s-app", "metrics-server"),)),
            Place("outside", address="198.51.100.7"),
        )
    }


def _expected(places, flows, proxy_ports):
    """Of all pairs and ports: what the flow table allows. Flows among other people's pods are not ours to judge."""
    wanted = set()
    inside = {*SERVICES, *SERVERS, "test"}
    for source in places:
        for target in places:
            for port in PORTS:
                if source not in inside and target not in inside:
                    continue
                allow = port in flows.get((source, target), ())
                if source in ("gateway", "health") and target not in inside and target not in ("outside", "neighbour"):
                    # All of the cluster's pods may be applications, but for Plinth's own.
                    allow = True
                if source not in inside and target == "gateway" and port in proxy_ports:
                    allow = True
                if source in (*SERVICES, "test") and target == "dns" and port == 53:
                    allow = True
                if allow:
                    wanted.add((source, target, port))
    return wanted


def _actual(places, policies):
    inside = {*SERVICES, *SERVERS, "test"}
    return {
        (source.name, target.name, port)
        for source in places.values()
        for target in places.values()
        for port in PORTS
        if (source.name in inside or target.name in inside) and allowed(policies, source, target, port)
    }


def _policies(values):
    return chart.of_kind(chart.render(values), "NetworkPolicy")


def _same(actual, wanted):
    assert actual - wanted == set(), f"allowed, but no flow: {sorted(actual - wanted)}"
    assert wanted - actual == set(), f"needed, but not allowed: {sorted(wanted - actual)}"


def test_the_trial_installation_allows_exactly_the_flows():
    places = _places()
    _same(_actual(places, _policies({})), _expected(places, FLOWS, {8000}))


def test_gateway_with_tls_adds_its_port_and_nothing_else():
    places = _places()
    _same(_actual(places, _policies({"gateway": {"tls": {"existingSecret": "t"}}})), _expected(places, FLOWS, {8000, 8443}))


def test_narrowed_clients_and_admins():
    places = _places()
    places["admin"] = _other("admin", "operations")
    flows = dict(FLOWS) | {("ingress", "gateway"): {8000}, ("admin", "gateway"): {8001}}
    _same(_actual(places, _policies(chart.CASES["ingress"])), _expected(places, flows, set()))


def test_a_policy_too_few_or_too_wide_would_be_seen():
    import copy

    places, policies = _places(), _policies({})
    wanted = _expected(places, FLOWS, {8000})
    without = [p for p in policies if p["metadata"]["name"] != "plinth-registry"]
    assert wanted - _actual(places, without), "the registry's flows are still there"
    wide = copy.deepcopy(policies)
    for policy in wide:
        if policy["metadata"]["name"] == "plinth-postgresql":
            del policy["spec"]["ingress"][0]["from"]
    assert ("stranger", "postgresql", 5432) in _actual(places, wide) - wanted


def test_dns_over_udp():
    places = _places()
    policies = _policies({})
    for service in (*SERVICES, "test"):
        assert allowed(policies, places[service], places["dns"], 53, "UDP")
        assert not allowed(policies, places[service], places["outside"], 53, "UDP")
    for server in SERVERS:
        assert not allowed(policies, places[server], places["dns"], 53, "UDP"), f"{server} asks nobody"


def test_external_servers_are_reached_at_their_peers_and_ports_only():
    places = {name: place for name, place in _places().items() if name not in SERVERS}
    outside = {
        "consul-outside": ("192.0.2.1", 8501, SERVICES),
        "postgresql-outside": ("192.0.2.17", 5432, ("config",)),
        "redis-outside": ("192.0.2.33", 6379, ("gateway",)),
        "rabbitmq-outside": ("192.0.2.49", 5672, ("config",)),
    }
    policies = _policies(chart.CASES["external"])
    for name, (address, own_port, callers) in outside.items():
        target = Place(name, address=address)
        for source in SERVICES:
            for port in PORTS | {8501}:
                wanted = port == own_port and source in callers
                assert allowed(policies, places[source], target, port) == wanted, (source, name, port)
    # Without peers the port alone is open.
    loose = _policies(chart.merged(chart.CASES["external"], {"consul": {"peers": []}}))
    assert allowed(loose, places["registry"], places["outside"], 8501)
    assert not allowed(loose, places["registry"], places["outside"], 443)


def test_without_optional_servers_their_flows_are_gone():
    policies = _policies(chart.CASES["small"])
    places = _places()
    for server, port in (("postgresql", 5432), ("rabbitmq", 5672), ("redis", 6379)):
        for service in SERVICES:
            assert not allowed(policies, places[service], places[server], port)


def test_intentions_and_policies_name_the_same_callers():
    """Consul's intentions, Istio's policies and SPIFFE lists say what the NetworkPolicies say about the main ports."""
    import json

    consul = json.loads(chart.named(chart.render(), "ConfigMap", "plinth-consul")["data"]["consul.json"])
    entries = {e["Name"]: [s["Name"] for s in e["Sources"] if s["Action"] == "allow"] for e in consul["config_entries"]["bootstrap"]}
    assert set(entries) == set(chart.COMPONENTS.values())
    assert all(e["Sources"][-1] == {"Name": "*", "Action": "deny"} for e in consul["config_entries"]["bootstrap"])
    istio = {d["metadata"]["name"]: d for d in chart.of_kind(chart.render(chart.CASES["istio"]), "AuthorizationPolicy")}
    files = chart.render(chart.CASES["cert-manager"])
    ports = {"registry": 8510, "config": 8520, "health": 8530}
    for target, port in ports.items():
        callers = {source for (source, to), open_ in FLOWS.items() if to == target and port in open_ and source in SERVICES}
        assert set(entries[chart.COMPONENTS[target]]) == {chart.COMPONENTS[c] for c in callers}
        [rule] = [r for r in istio[f"plinth-{target}"]["spec"]["rules"] if r["to"][0]["operation"]["ports"] == [str(port)]]
        assert {p.rsplit("-", 1)[-1] for p in rule["from"][0]["source"]["principals"]} == callers
        env = chart.named(files, "Deployment", f"plinth-{target}")["spec"]["template"]["spec"]["containers"][0]["env"]
        [allow] = [e["value"] for e in env if e["name"].endswith("MTLS__ALLOW")]
        ids = {f"spiffe://cluster.local/ns/plinth/svc/{chart.COMPONENTS[c]}" for c in callers}
        assert set(allow.split(",")) == ids | {"spiffe://cluster.local/ns/apps/sa/backoffice"}
    made = {d["metadata"]["name"]: d["spec"]["uris"] for d in chart.of_kind(files, "Certificate")}
    assert made == {f"plinth-{c}": [f"spiffe://cluster.local/ns/plinth/svc/{service}"] for c, service in chart.COMPONENTS.items()}
    for server, port in (("consul", 8500), ("postgresql", 5432), ("redis", 6379), ("rabbitmq", 5672)):
        [rule] = istio[f"plinth-{server}"]["spec"]["rules"]
        callers = {source for (source, to) in FLOWS if to == server}
        assert {p.rsplit("-", 1)[-1] for p in rule["from"][0]["source"]["principals"]} == callers
        assert rule["to"][0]["operation"]["ports"] == [str(port)]


@pytest.mark.parametrize("case", chart.CASES)
def test_every_pod_is_under_the_default_deny(case):
    documents = chart.render(chart.CASES[case])
    name = "edge-default-deny" if case == "other-names" else "plinth-default-deny"
    deny = chart.named(documents, "NetworkPolicy", name)["spec"]
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"} and not {"ingress", "egress"} & deny.keys()
    for pod, labels, _ in chart.pod_specs(documents):
        assert deny["podSelector"]["matchLabels"].items() <= labels.items(), pod
