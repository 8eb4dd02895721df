"""The pipeline: linted offline, with the names that xtask has and no registry written into it."""

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import helm_python
import pytest
import yaml
from support import chart

FILE = chart.ROOT / ".gitlab-ci.yml"
KEYWORDS = {"stages", "variables", "workflow", "default", "include"}


@pytest.fixture(scope="module")
def pipeline():
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def jobs(pipeline):
    """Jobs with what they inherit."""

    def whole(name):
        job = dict(pipeline[name])
        bases = job.pop("extends", [])
        result = {}
        for base in [bases] if isinstance(bases, str) else bases:
            result = chart.merged(result, whole(base))
        return chart.merged(result, job)

    return {name: whole(name) for name in pipeline if name not in KEYWORDS and not name.startswith(".")}


def _scripts(job):
    return "\n".join(line for key in ("before_script", "script", "after_script") for line in job.get(key, []))


def _findings(file, folder):
    tool = Path(sysconfig.get_path("scripts")) / "gitlab-ci-verify"
    assert tool.is_file(), "gitlab-ci-verify is missing: pip install -r tests/deploy/requirements.txt"
    done = subprocess.run(
        [tool, "--no-lint-api", "--gitlab-base-url", "http://127.0.0.1", "--format", "json", "--gitlab-ci-file", file],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_linter_finds_nothing():
    code, out, err = _findings(FILE, chart.ROOT)
    assert code == 0, out + err


def test_the_linter_would_find_something(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitlab-ci.yml").write_text("stages: [a]\njob:\n  stage: a\n  script:\n    - echo $undefined_word && cd $folder\n")
    code, out, _ = _findings(tmp_path / ".gitlab-ci.yml", tmp_path)
    assert code == 1 and "SC-" in json.dumps(out)


def test_stages_needs_and_templates_fit(pipeline, jobs):
    stages = pipeline["stages"]
    assert stages == ["lint", "test", "build", "scan", "publish", "review", "staging", "production"]
    assert {job["stage"] for job in jobs.values()} == set(stages)
    for name, job in jobs.items():
        assert job.get("script"), f"{name} does nothing"
        assert job.get("rules"), f"{name} says not when it runs"
        for need in job.get("needs", []):
            assert need in jobs, f"{name} needs {need}, which is no job"
            assert stages.index(jobs[need]["stage"]) <= stages.index(job["stage"])
        stop = job.get("environment", {}).get("on_stop")
        if stop:
            assert jobs[stop]["environment"] == {"name": job["environment"]["name"], "action": "stop"}


def test_tasks_are_those_of_xtask(jobs):
    main = (chart.ROOT / "xtask/src/main.rs").read_text()
    tasks = set(re.findall(r'\("([a-z-]+)", ', main))
    named = {task for job in jobs.values() for task in re.findall(r"cargo xtask ([a-z-]+)", _scripts(job))}
    assert named and named <= tasks, named - tasks
    assert {"deploy", "nightly", "house"} <= named
    runner = (chart.ROOT / ".ci/run").read_text()
    assert any("bash .ci/run" in _scripts(job) for job in jobs.values()) and "cargo xtask ci" in runner
    scheduled = [n for n, job in jobs.items() if any(r.get("if") == '$CI_PIPELINE_SOURCE == "schedule"' and r.get("when") != "never" for r in job["rules"])]
    assert "nightly" in scheduled


def test_no_registry_is_written_into_it(pipeline, jobs):
    """GitLab's own variables say where; images of tools are Docker Hub names, and variables."""
    for name, job in jobs.items():
        image = job.get("image")
        image = image["name"] if isinstance(image, dict) else image
        assert re.fullmatch(r"\$[A-Z_]+_IMAGE", image), f"{name}: {image}"
        assert image[1:] in pipeline["variables"]
    for name, value in pipeline["variables"].items():
        if name.endswith("_IMAGE"):
            assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?:[\w.-]+", value) and not value.endswith(":latest"), value
    assert not re.search(r"\b[\w-]+\.(io|com|org|dev)\b", FILE.read_text().replace("pod-security.kubernetes.io", ""))
    for job in jobs.values():
        assert not re.search(r"(--password|-p)[ =]\S*CI_REGISTRY_PASSWORD", _scripts(job)), "a password among the arguments of a process"


def test_images_are_the_dockerfiles_and_all_are_scanned(jobs):
    targets = set(re.findall(r"^FROM runtime AS (\S+)", (chart.ROOT / "Dockerfile").read_text(), re.M))
    assert targets
    for name in ("images", "release-images"):
        assert set(re.search(r"for target in ([^;]+);", _scripts(jobs[name]))[1].split()) == targets
    assert set(jobs["scan"]["parallel"]["matrix"][0]["TARGET"]) == targets
    arguments = set(re.findall(r"--build-arg ([A-Z]+)=", _scripts(jobs["images"]))) - {"BUILDKIT_INLINE_CACHE"}
    assert arguments <= set(re.findall(r"^ARG ([A-Z]+)", (chart.ROOT / "Dockerfile").read_text(), re.M))


def test_production_is_started_by_a_person_and_can_be_taken_back(jobs):
    assert jobs["production"]["rules"][-1]["when"] == "manual"
    assert jobs["production"]["needs"] == ["staging"]
    for stage in ("staging", "production"):
        back = jobs[f"rollback-{stage}"]
        assert "helm rollback plinth" in _scripts(back) and back["rules"][-1]["when"] == "manual"
        assert back["environment"]["name"] == jobs[stage]["environment"]["name"]
        assert back["variables"]["NAMESPACE"] == jobs[stage]["variables"]["NAMESPACE"]
        assert back["resource_group"] == jobs[stage]["resource_group"], "a rollback and a deployment at the same time"
    assert {jobs[n]["environment"]["name"] for n in ("review", "staging", "production")} == {"review/$CI_MERGE_REQUEST_IID", "staging", "production"}


def test_the_chart_takes_what_the_jobs_set(jobs):
    words = re.findall(r'--set "([^"]+(?:"\$CI_REGISTRY"[^"]*)?)"', _scripts(jobs["staging"]).replace('"$CI_REGISTRY"/', ""))
    values = {}
    for word in words:
        word = re.sub(r"\$\{CI_REGISTRY_IMAGE#[^}]*\}", "group/plinth", word).replace("$CI_REGISTRY", "registry.test:5050").replace("$IMAGE_TAG", "abc123")
        values = chart.merged(values, helm_python.parse_set_string(word))
    gateway = chart.named(chart.render(values), "Deployment", "plinth-gateway")["spec"]["template"]["spec"]
    assert gateway["containers"][0]["image"] == "registry.test:5050/group/plinth/gateway:abc123"
    assert gateway["imagePullSecrets"] == [{"name": "gitlab-registry"}]
