"""What the log tests share: the index template's answer to a field, and rsyslog with our file."""

import json
import os
from pathlib import Path

from support.monitoring import ROOT, Program, tool

ELK = ROOT / "infrastructure" / "elk"
RSYSLOG = ROOT / "infrastructure" / "rsyslog" / "plinth.conf"


def template() -> dict:
    return json.loads((ELK / "elasticsearch" / "index-template.json").read_text())


def fields(document: dict, prefix: str = "") -> dict[str, object]:
    """Leaves by dotted name, as Elasticsearch reads a document: dots in names and nested objects are the same."""
    found = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            found |= fields(value, path + ".")
        else:
            found[path] = value
    return found


def mapped(path: str) -> str | None:
    """The type that the index template gives a field; None when it is kept but not indexed."""
    node = template()["template"]["mappings"]
    for part in path.split("."):
        below = node.get("properties", {})
        if part not in below:
            if node.get("dynamic") is True:
                # The only dynamic template.
                assert template()["template"]["mappings"]["dynamic_templates"][0]["plinth_fields"]["path_match"] == "plinth.*"
                return "keyword" if path.startswith("plinth.") else None
            return None
        node = below[part]
    return node.get("type", "object")


def fits(kind: str, value: object) -> bool:
    """Whether Elasticsearch would take the value as it is meant, not only by conversion."""
    if kind in ("long", "short"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "date":
        return isinstance(value, int) or (isinstance(value, str) and "T" in value)
    if kind == "ip":
        return isinstance(value, str) and (value.count(".") == 3 or ":" in value)
    return isinstance(value, (str, int, float, bool))


def unfit(document: dict) -> dict[str, str]:
    """Fields that are not mapped, or not with the type they have."""
    wrong = {}
    for path, value in fields(document).items():
        kind = mapped(path)
        if kind is None:
            wrong[path] = "not mapped"
        elif not fits(kind, value):
            wrong[path] = f"{kind}, but is {value!r}"
    return wrong


def rsyslog(folder: Path, elasticsearch: str, services: str, access: str) -> Program:
    """rsyslogd with our file and nothing else; what is configured comes from its environment, as documented."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    config = folder / "rsyslog.conf"
    config.write_text(f'global(workDirectory="{folder / "work"}")\ninclude(file="{RSYSLOG}")\n')
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    env = {
        "PLINTH_SERVICE_LOGS": services,
        "PLINTH_ACCESS_LOGS": access,
        "PLINTH_ELASTICSEARCH_URL": elasticsearch,
        "PLINTH_ELASTICSEARCH_USER": "plinth-shipper",
        "PLINTH_ELASTICSEARCH_PASSWORD": "only-for-this-test",
        "PLINTH_ELASTICSEARCH_CA": certificates if os.path.exists(certificates) else str(config),
        "PLINTH_RSYSLOG_ERRORS": str(folder / "errors"),
    }
    return Program("rsyslog", [tool("rsyslogd"), "-n", "-f", str(config), "-i", str(folder / "pid")], folder / "rsyslog.log", env)
