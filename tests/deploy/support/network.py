"""What rendered NetworkPolicies let through, computed as a network plugin would."""

import ipaddress
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Place:
    """A pod (namespace and labels) or, without labels, an address outside the cluster."""

    name: str
    namespace: str = ""
    labels: tuple = ()
    namespace_labels: tuple = ()
    address: str = "10.0.0.1"
    ports: tuple = field(default=())

    @property
    def is_pod(self):
        return bool(self.namespace)


def _matches(selector, labels):
    labels = dict(labels)
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value, values = labels.get(rule["key"]), rule.get("values", [])
        held = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[rule["operator"]]
        if not held:
            return False
    return True


def _is_peer(peer, place, own_namespace):
    if "ipBlock" in peer:
        inside = ipaddress.ip_address(place.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return not place.is_pod and inside and not any(
            ipaddress.ip_address(place.address) in ipaddress.ip_network(but) for but in peer["ipBlock"].get("except", [])
        )
    if not place.is_pod:
        return False
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], place.namespace_labels):
            return False
    elif place.namespace != own_namespace:
        return False
    return _matches(peer.get("podSelector", {}), place.labels)


def _has_port(rule, port, protocol):
    if "ports" not in rule:
        return True
    return any(p.get("protocol", "TCP") == protocol and p.get("port", port) == port for p in rule["ports"])


def _lets(policies, direction, own, other, port, protocol):
    """`direction` is Ingress or Egress, seen from `own`."""
    if not own.is_pod:
        return True
    chosen = [
        p
        for p in policies
        if p["metadata"]["namespace"] == own.namespace
        and direction in p["spec"]["policyTypes"]
        and _matches(p["spec"]["podSelector"], own.labels)
    ]
    if not chosen:
        return True
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for policy in chosen:
        for rule in policy["spec"].get(key, []):
            if _has_port(rule, port, protocol) and (
                peers not in rule or any(_is_peer(peer, other, own.namespace) for peer in rule[peers])
            ):
                return True
    return False


def allowed(policies, source, target, port, protocol="TCP"):
    return _lets(policies, "Egress", source, target, port, protocol) and _lets(policies, "Ingress", target, source, port, protocol)
