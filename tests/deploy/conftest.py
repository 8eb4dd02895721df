"""Fixtures that several test files share."""

import pytest


@pytest.fixture(scope="session")
def engine():
    """A Docker engine: that of DOCKER_HOST, else one that is started for the session."""
    from support.engine import Engine

    engine = Engine.connect()
    yield engine
    engine.close()
