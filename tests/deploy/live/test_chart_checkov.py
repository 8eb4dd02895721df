"""checkov has nothing to say about what the chart renders, but for the exceptions with their reasons."""

import json
import subprocess
import sysconfig
from pathlib import Path

import yaml
from support import chart

EXCEPTIONS = yaml.safe_load(Path(__file__).with_name("checkov-exceptions.yaml").read_text())
CASES = ("defaults", "ha", "small", "istio", "ingress")


def test_checkov(tmp_path):
    for case in CASES:
        documents = [d for d in chart.render(chart.CASES[case]) if d["apiVersion"] not in ("monitoring.coreos.com/v1",)]
        (tmp_path / f"{case}.yaml").write_text("---\n".join(yaml.safe_dump(d) for d in documents))
    checkov = Path(sysconfig.get_path("scripts")) / "checkov"
    assert checkov.is_file(), "checkov is missing: pip install -r tests/deploy/requirements.txt"
    done = subprocess.run(
        [checkov, "--directory", tmp_path, "--framework", "kubernetes", "--compact", "--quiet", "--output", "json", "--skip-download"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 2000 and not report["summary"]["parsing_errors"], report["summary"]
    found = {(c["check_id"], c["resource"], c["check_name"]) for c in report["results"]["failed_checks"]}
    unwanted = {
        finding for finding in found if finding[0] not in EXCEPTIONS or finding[1] not in EXCEPTIONS[finding[0]].get("objects", [finding[1]])
    }
    assert not unwanted
    assert {check for check, *_ in found} == set(EXCEPTIONS), "an exception that nothing needs"
