"""The guides say what is there: links, anchors, paths, variables, settings, flags, metrics, alerts; and both languages have one structure."""

import functools
import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(os.environ.get("PLINTH_ROOT") or Path(__file__).resolve().parents[3])
ENGLISH = ["deployment.md", "operations.md", "security.md", "runbooks.md"]
GUIDES = [ROOT / "docs" / name for name in ENGLISH] + [ROOT / "docs" / "zh" / name for name in [*ENGLISH, "README.md"]]
SERVICES = {"registry-service": "PLINTH_REGISTRY__", "config-service": "PLINTH_CONFIG__", "health-aggregator": "PLINTH_HEALTH__", "gateway": "PLINTH_GATEWAY__"}
COMMANDS = [*SERVICES, "plinth"]
# Flags of other people's programs that the guides name on their own; on a line of a command they need no entry.
FOREIGN_FLAGS = {"--profile"}
# Names of others that look like settings: a metric of Consul.
FOREIGN_NAMES = {"consul.raft.commitTime"}
FILE_ENDINGS = {"pem", "crt", "key", "json", "db", "yml", "yaml", "toml", "hcl", "snap", "dump", "md"}
# Where variables come from that are not settings of a program: what Compose and its scripts take.
VARIABLE_SOURCES = ["docker-compose.yml", "infrastructure/docker", "infrastructure/nginx", "infrastructure/rsyslog", "infrastructure/elk"]
# Files that a person makes, named in the guides by the folder they belong to.
MADE = ("secrets/", "prebuilt/", "data/")

guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda g: str(g.relative_to(ROOT / "docs")))


@functools.cache
def text(guide):
    return guide.read_text(encoding="utf-8")


def prose(guide):
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", text(guide), flags=re.M | re.S)


def blocks(guide):
    return re.findall(r"^```(\w*)\n(.*?)^```", text(guide), flags=re.M | re.S)


def spans(guide):
    return re.findall(r"`([^`\n]+)`", prose(guide))


def anchors(guide):
    """As GitLab and GitHub make them of headings."""
    found = []
    for heading in re.findall(r"^#{1,6} +(.+)$", prose(guide), flags=re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.append(re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-"))
    named = re.findall(r'<a (?:id|name)="([^"]+)"', text(guide))
    return set(found) | set(named)


@functools.cache
def help_of(program, *subcommand):
    folder = os.environ.get("PLINTH_BIN_DIR")
    assert folder, "PLINTH_BIN_DIR is not set: the folder with the built programs"
    binary = Path(folder) / program
    assert binary.exists(), f"{binary} is missing"
    done = subprocess.run([binary, *subcommand, "--help"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{program} {' '.join(subcommand)} --help: {done.stderr}"
    return done.stdout


@functools.cache
def variables():
    names = set()
    for program in SERVICES:
        for line in re.findall(r"\benv ([^;\]]+)", help_of(program)):
            for name in re.findall(r"[A-Z][A-Z0-9_]+", line):
                names.add(name)
            if "the same names with _file" in line:
                names |= {n + "_FILE" for n in re.findall(r"[A-Z][A-Z0-9_]+", line)}
    for subcommand in subcommands():
        names |= set(re.findall(r"\[env: ([A-Z0-9_]+)", help_of("plinth", *subcommand)))
    for source in VARIABLE_SOURCES:
        path = ROOT / source
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                names |= set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", file.read_text(encoding="utf-8", errors="ignore")))
    return names


@functools.cache
def settings():
    """Names as in a settings file, such as `auth.key_file`."""
    return {name for program in SERVICES for name in re.findall(r"; file ([a-z0-9_.]+)\]", help_of(program))}


@functools.cache
def subcommands():
    def listed(*path):
        section = re.search(r"^Commands:\n((?: +.+\n)+)", help_of("plinth", *path), flags=re.M)
        return [(*path, name) for name in re.findall(r"^  (\w[\w-]*)", section[1], flags=re.M) if name != "help"] if section else []

    first = listed()
    return [(), *first, *(deeper for path in first for deeper in listed(*path))]


def flags_of(program, *subcommand):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", help_of(program, *subcommand))) | {"--help", "--version", "--settings"}


def commands(guide):
    """(program, words after it) for each call of one of ours, in blocks and in spans."""
    lines = [line for _, block in blocks(guide) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *spans(guide)]:
        line = re.sub(r"(^|\s)#\s.*", "", line)
        for part in re.split(r"\$\(|[|;&)]", line):
            words = part.split()
            while words and (re.fullmatch(r"[A-Z_][A-Z0-9_]*=\S*", words[0]) or words[0] in ("export", "$", "sudo", "nice")):
                words = words[1:]
            if words and words[0] in COMMANDS:
                yield words[0], words[1:]


@guides
def test_links_lead_somewhere(guide):
    wrong = []
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", prose(guide)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (guide.parent / path).resolve() if path else guide
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(f"{target}: no such heading")
    assert not wrong


@guides
def test_paths_are_in_the_repository(guide):
    top = {p.name for p in ROOT.iterdir()}
    wrong = []
    for span in spans(guide):
        word = span.split()[0] if span.split() else ""
        first = word.removeprefix("./").split("/")[0]
        if ("/" in word and first in top and first not in {m.rstrip("/") for m in MADE}) or word in ("docker-compose.yml", "Dockerfile", ".gitlab-ci.yml"):
            if re.search(r"[<>*{]", word):
                continue
            if not (ROOT / word).exists():
                wrong.append(word)
    for _, block in blocks(guide):
        for word in re.findall(r"(?<![\w./:-])(?:infrastructure|helm|k8s|docs|tests|services|crates)/[\w./-]+", block):
            if not (ROOT / word).exists():
                wrong.append(word)
    assert not wrong


@guides
def test_variables_exist(guide):
    named = set(re.findall(r"\b(?:PLINTH|CONSUL|KONG)_[A-Z0-9_]*[A-Z0-9]\b", text(guide)))
    prefixes = {prefix.rstrip("_") for prefix in SERVICES.values()}
    consul = {"CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE"}
    assert not named - variables() - prefixes - consul


@functools.cache
def chart():
    return yaml.safe_load((ROOT / "helm" / "plinth" / "values.yaml").read_text(encoding="utf-8"))


def in_chart(name):
    node = chart()
    for part in name.split("."):
        # An empty map or list holds what its user puts there.
        if node in ({}, [], "") or isinstance(node, list):
            return True
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@guides
def test_dotted_names_are_settings_or_values_of_the_chart(guide):
    groups = {name.split(".")[0] for name in settings() if "." in name} | set(chart())
    wrong = []
    for span in spans(guide):
        name = re.split(r"[:=\s]", span)[0]
        if not re.fullmatch(r"[a-z][A-Za-z0-9_]*(?:\.[a-z][A-Za-z0-9_]*)+", name) or name.split(".")[0] not in groups:
            continue
        if name.rsplit(".", 1)[-1] in FILE_ENDINGS or name in FOREIGN_NAMES:
            continue
        if name not in settings() and not in_chart(name):
            wrong.append(name)
    assert not wrong


def over(base, values):
    """As Helm lays a file of values over the chart's own."""
    if not isinstance(base, dict) or not isinstance(values, dict):
        return values
    return {key: over(base.get(key), values[key]) if key in values else base[key] for key in [*base, *(set(values) - set(base))]}


@guides
def test_files_of_values_fit_the_schema(guide):
    schema = json.loads((ROOT / "helm" / "plinth" / "values.schema.json").read_text(encoding="utf-8"))
    for language, block in blocks(guide):
        values = yaml.safe_load(block) if language == "yaml" else None
        if isinstance(values, dict) and set(values) & set(chart()):
            jsonschema.validate(over(chart(), values), schema)


@guides
def test_commands_and_their_flags_exist(guide):
    known = subcommands()
    wrong = []
    for program, words in commands(guide):
        path = []
        if program == "plinth":
            for word in words:
                if (*path, word) in known:
                    path.append(word)
                else:
                    break
            first = next((w for w in words if not w.startswith("-")), None)
            if first and not path and re.fullmatch(r"[a-z]+", first):
                wrong.append(f"plinth {first}")
        for flag in [w.split("=")[0] for w in words if w.startswith("--")]:
            if flag not in flags_of(program, *path):
                wrong.append(f"{' '.join([program, *path])} {flag}")
    assert not wrong


@guides
def test_flags_named_alone_exist(guide):
    everything = set().union(*(flags_of(p) for p in SERVICES), *(flags_of("plinth", *path) for path in subcommands()))
    named = {s.split()[0].split("=")[0] for s in spans(guide) if re.fullmatch(r"--[a-z][a-z0-9-]*(?:[ =].*)?", s)}
    assert not named - everything - FOREIGN_FLAGS


@guides
def test_metrics_are_documented(guide):
    documented = set(re.findall(r"^\| `([a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), flags=re.M))
    prefixes = sorted({name.split("_")[0] + "_" for name in documented} - {"http_", "process_"}) + ["http_server_", "process_"]
    # Of the guides' words only those in code that look like a metric: a prefix of ours and at least three parts.
    suffix = re.compile(r"_(?:bucket|sum|count)$")
    wrong = set()
    for span in spans(guide):
        for word in re.findall(r"(?<![\w:./-])[a-z]+(?:_[a-z0-9]+){2,}(?![\w/:=-])", span):
            if word.startswith(tuple(prefixes)) and word not in documented and suffix.sub("", word) not in documented and word not in settings():
                wrong.add(word)
    assert not wrong


@guides
def test_alerts_exist(guide):
    rules = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "infrastructure/prometheus/rules").glob("*.yml"))
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert alerts
    assert not set(re.findall(r"\bPlinth[A-Z]\w+", text(guide))) - alerts


@pytest.mark.parametrize("name", ENGLISH)
def test_both_languages_have_one_structure(name):
    def levels(guide):
        return [len(marks) for marks in re.findall(r"^(#{1,6}) ", prose(guide), flags=re.M)]

    def rows(guide):
        """Rows of each table, one after the other."""
        counts, current = [], 0
        for line in [*text(guide).splitlines(), ""]:
            if line.startswith("|"):
                current += 1
            elif current:
                counts.append(current)
                current = 0
        return counts

    english, chinese = ROOT / "docs" / name, ROOT / "docs" / "zh" / name
    assert levels(english) == levels(chinese)
    assert rows(english) == rows(chinese)
    # Commands are the same, comments aside.
    bare = [[re.sub(r"(^|\s+)(#|//|--) .*", "", line).rstrip() for line in block.splitlines()] for _, block in blocks(english)]
    zh = [[re.sub(r"(^|\s+)(#|//|--) .*", "", line).rstrip() for line in block.splitlines()] for _, block in blocks(chinese)]
    assert len(bare) == len(zh)
    for ours, theirs, (language, _) in zip(bare, zh, blocks(english), strict=True):
        if language or any(re.match(r"\s*(\w+=|plinth|docker|kubectl|helm|consul|curl|openssl|export|infrastructure|psql|pg_|sqlite3|rabbitmqctl|k8s)", line) for line in ours):
            assert ours == theirs
