"""Real programs that tests talk to: ``@pytest.mark.peer("mosquitto_pub")`` names the ones that a test needs."""

import os
import shutil

import pytest


def found(program: str) -> bool:
    """Whether a program is installed; servers are in /usr/sbin, which is not in every user's path."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is not None


def missing(item: pytest.Item) -> list[str]:
    """The peers of a test that are not installed."""
    return [name for mark in item.iter_markers("peer") for name in mark.args if not found(name)]


def require(item: pytest.Item) -> None:
    """Skips a test whose peer is missing, naming the peer; fails it if FLEETCORE_REQUIRE=all is set.

    ``pytest_runtest_setup = require`` in a conftest.
    """
    for name in missing(item):
        if os.environ.get("FLEETCORE_REQUIRE") == "all":
            pytest.fail(f"the peer {name!r} is not installed, and FLEETCORE_REQUIRE=all", pytrace=False)
        pytest.skip(f"the peer {name!r} is not installed")
