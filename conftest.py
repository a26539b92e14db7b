"""Shared by every test: peers that are real programs, and what happens where one is missing."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from fleetcore.builtin.sqlite.storage import SqliteStorage
from fleetcore.fleet.security import Authority
from fleetcore.model.events import CORE
from fleetcore.model.message import Downlink, Inbound, MessageType, Reply
from fleetcore.model.store import Commit, Committed
from fleetcore.pipeline.handlers import Handlers
from fleetcore.runtime.clock import SystemClock
from fleetcore.runtime.plane.downlinks import Downlinks
from fleetcore.runtime.plane.waiting import Waiting
from fleetcore.testing import peers

# One seed and no deadline: what a test draws depends on the test alone, and what is slow is a busy machine's.
# FLEETCORE_HYPOTHESIS=explore draws anew each time.
settings.register_profile(
    "fleetcore", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("FLEETCORE_HYPOTHESIS", "fleetcore"))


# Tests start several hundred processes of fleetcore. Where bytecode is not kept each of them compiles all of it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a shell starts in the background ignores Ctrl-C, and so would each program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _few_cas() -> str:
    """The path of a file with one CA, which has signed nothing."""
    folder = Path(tempfile.mkdtemp(prefix="fleetcore-cas-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "ca.pem"
    file.write_bytes(Authority.create("nothing", SystemClock()).ca_pem())
    return str(file)


# Each client that trusts the system's CAs reads all of them, which takes 50 ms. No test talks to a server of theirs.
os.environ.setdefault("SSL_CERT_FILE", _few_cas())

_missing: set[str] = set()


def pytest_collection_finish() -> None:
    """Keeps what was collected out of every later garbage collection: several hundred thousand objects."""
    gc.collect()
    gc.freeze()


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


def _undeclared(kind: Any, body: object) -> str:
    """What of a body that a device is told is not as its row in the table of message types says."""
    try:
        found = msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        return str(error)
    more = (
        set(body) - set(kind.__struct_fields__)
        if isinstance(body, Mapping) and isinstance(found, msgspec.Struct)
        else ()
    )
    return f"members {sorted(more)} are not declared" if more else ""


@pytest.fixture(autouse=True)
def declared_bodies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test in which a device was told anything that is not as the table of message types declares it."""
    wrong: list[str] = []
    hand, read, run = Downlinks._hand, Waiting._read, Handlers.run

    def look(row: MessageType, kind: Any, body: object) -> None:
        if kind is not None and body is not None and (fault := _undeclared(kind, body)):
            wrong.append(f"{row.name}: {fault}")

    def checked_hand(self: Downlinks, sinks: Any, device: Any, downlink: Downlink) -> None:
        look(downlink.type, downlink.type.body, downlink.body)
        hand(self, sinks, device, downlink)

    async def checked_read(self: Waiting, subject: str, what: MessageType, after: int) -> Any:
        body = await read(self, subject, what, after)
        look(what, what.answer or what.body, body)
        return body

    async def checked_run(self: Handlers, request: Any, message: Inbound) -> Any:
        answer = await run(self, request, message)
        if isinstance(answer, Reply):
            look(message.type, message.type.answer, answer.body)
        return answer

    monkeypatch.setattr(Downlinks, "_hand", checked_hand)
    monkeypatch.setattr(Waiting, "_read", checked_read)
    monkeypatch.setattr(Handlers, "run", checked_run)
    yield
    assert not wrong, "; ".join(sorted(set(wrong)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """As :func:`fleetcore.testing.peers.require`; what was missing is named at the end."""
    _missing.update(peers.missing(item))
    peers.require(item)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Says loudly what was not tested."""
    yield
    skipped = [
        str(item.longrepr) for item in terminalreporter.stats.get("skipped", []) if "the peer" in str(item.longrepr)
    ]
    if skipped:
        terminalreporter.section("PEERS ARE MISSING", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests did not run; `make services` installs what they need.", red=True)
