"""Shared by every test: peers that are real programs, and what happens where one is missing."""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from fleetcore.builtin.sqlite.storage import SqliteStorage
from fleetcore.model.events import CORE
from fleetcore.model.store import Commit, Committed

# One seed and no deadline: what a test draws depends on the test alone, and what is slow is a busy machine's.
# FLEETCORE_HYPOTHESIS=explore draws anew each time.
settings.register_profile(
    "fleetcore", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("FLEETCORE_HYPOTHESIS", "fleetcore"))


_missing: set[str] = set()


def _found(program: str) -> bool:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is not None


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their argument: what a compressor or a key maker wrote differs between two collections."""
    return argname if isinstance(val, bytes | bytearray) else None


#: Events of the store's own contract, which is about no fleet.
_OF_THE_KIT = frozenset({"happened", "cursor"})


@pytest.fixture(autouse=True)
def declared_events(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test in which an event was stored whose type is not declared, or whose data is not as declared."""
    wrong: list[str] = []
    commit = SqliteStorage.commit

    async def checked(self: SqliteStorage, change: Commit) -> Committed:
        for event in change.events:
            kind = CORE.get(event.type)
            if kind is not None:
                wrong.extend(kind.faults(event))
            elif event.type not in _OF_THE_KIT and not event.type.startswith("x."):
                wrong.append(f"{event.type} is not declared in fleetcore.model.events")
        return await commit(self, change)

    monkeypatch.setattr(SqliteStorage, "commit", checked)
    yield
    assert not wrong, "; ".join(sorted(set(wrong)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose peer is missing, with the peer's name; fails it where all peers are required."""
    for mark in item.iter_markers("peer"):
        for program in mark.args:
            if _found(program):
                continue
            if os.environ.get("FLEETCORE_REQUIRE") == "all":
                pytest.fail(f"the peer {program!r} is not installed, and FLEETCORE_REQUIRE=all", pytrace=False)
            _missing.add(program)
            pytest.skip(f"the peer {program!r} is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says loudly what was not tested."""
    yield
    skipped = [
        str(one.longrepr) for one in terminalreporter.stats.get("skipped", []) if "the peer" in str(one.longrepr)
    ]
    if skipped:
        terminalreporter.section("PEERS ARE MISSING", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests did not run; `make services` installs what they need.", red=True)
