"""Takes the place of py-consul's own root conftest.py, which starts servers in Docker containers.

Each test gets a fresh server, as there: the program of SERVER_COMMAND (a JSON list of words) on SERVER_PORT.
"""

import collections
import json
import os
import subprocess
import time

import pytest
import requests

ConsulInstance = collections.namedtuple("ConsulInstance", ["container", "port", "version"])

PORT = int(os.environ["SERVER_PORT"])
BASE = f"http://127.0.0.1:{PORT}/v1/"


def ready(server):
    """The version it reports, once it has a leader and shows what is registered."""
    deadline = time.monotonic() + 30
    last = "nothing yet"
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            leader = requests.get(BASE + "status/leader", timeout=2)
            nodes = requests.get(BASE + "health/service/consul", timeout=2)
            last = f"{leader.text} {nodes.text}"
            # Consul writes its own node twice: tests that compare nodes begin after the second time.
            if leader.json() and nodes.json() and nodes.json()[0]["Node"]["Meta"]:
                return requests.get(BASE + "agent/self", timeout=2).json()["Config"]["Version"]
        except (requests.RequestException, ValueError) as error:
            last = repr(error)
        time.sleep(0.02)
    raise TimeoutError(last)


@pytest.fixture
def consul_instance():
    with open(os.environ["SERVER_LOG"], "ab") as log:
        server = subprocess.Popen(json.loads(os.environ["SERVER_COMMAND"]), stdout=log, stderr=log)
        try:
            yield ConsulInstance(server, PORT, ready(server))
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def acl_consul_instance(consul_instance):
    """Access control is off on both servers: a token is taken and not looked at."""
    return consul_instance, "4e0e8d5b-3b0a-4f2c-9a55-0d6d9a5a9a11"


@pytest.fixture
def consul_port(consul_instance):
    return consul_instance.port, consul_instance.version
