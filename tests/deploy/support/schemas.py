"""Kubernetes' own schemas (package kubernetes-validate), strict, each read once."""

import functools
import json
import re

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]


@functools.cache
def _release(version):
    exact = [known for known in utils.all_versions() if utils.major_minor(known) == version]
    assert exact, f"kubernetes-validate has no schemas of Kubernetes {version}"
    return exact[0]


@functools.cache
def _definitions(version):
    return Resource.from_contents(utils.schema_contents(f"kubernetes-json-schema/v{_release(version)}-local-strict/_definitions.json", version))


@functools.cache
def _validator(version, kind, api):
    name = f"kubernetes-json-schema/v{_release(version)}-local-strict/{kind.lower()}-{api}.json"
    schema = utils.schema_contents(name, version)
    registry = _definitions(version) @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _faults(version, text):
    document = json.loads(text)
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    validator = _validator(version, document["kind"], api)
    return tuple(f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document))


def faults(document, version):
    """What Kubernetes `version` would refuse in a document; an unknown kind raises FileNotFoundError."""
    return _faults(version, json.dumps(document, sort_keys=True))
