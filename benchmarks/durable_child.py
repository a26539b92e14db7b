"""Devices of a campaign report how far their updates are, alone or beside devices that send readings.

``python -m benchmarks.durable_child TASK`` prints one JSON line. Reports and readings enter the fleet where the
protocols deliver them; a transition counts once its report is acknowledged, which follows its commit.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from benchmarks.loops import run_on
from fleetcore.interfaces.provider import Limits
from fleetcore.model.credential import LocalCredential
from fleetcore.model.device import Device, Lifecycle
from fleetcore.model.firmware import ExecutionState
from fleetcore.model.message import Accepted, Inbound, Outcome
from fleetcore.model.store import Commit
from fleetcore.pipeline.session import DeviceSession
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection
from fleetcore.runtime.process import settle_memory
from fleetcore.wire.messages import FIRMWARE_STATUS, TELEMETRY

_AT_ONCE = 2000
_RELEASE, _DIGEST = "2.0.0", "a" * 64
_SAID = ("accepted", "downloading", "downloaded", "installing", "rebooting", "succeeded")
#: Messages are sent every so often, and each carries so many readings.
_EVERY_S, _READINGS = 0.01, 3
_SENDERS = 1000
#: So many devices have one report outstanding at a time where they report as fast as they can.
_WINDOW = 1000
Sessions = dict[str, DeviceSession]


async def _prepared(fleet: Fleet, names: list[str]) -> Sessions:
    """Active devices with their sessions."""
    records = fleet.devices.records
    for at in range(0, len(names), _AT_ONCE):
        devices = [
            Device(id=name, type="pump", lifecycle=Lifecycle.ACTIVE, created=1, updated=1)
            for name in names[at : at + _AT_ONCE]
        ]
        await fleet.storage.commit(Commit(puts=tuple(records.put(device, expect=0) for device in devices)))
    return {name: await fleet.plane.authenticate(LocalCredential(name), protocol="bench") for name in names}


async def _offered(fleet: Fleet, names: list[str]) -> None:
    """A campaign whose devices all have their offer, by direct commits."""
    await fleet.campaigns.create("c", _RELEASE, names, "https://updates.example.com/2", sha256=_DIGEST, size=1)
    executions, now = fleet.campaigns.executions, fleet.clock.now_ms()
    for at in range(0, len(names), _AT_ONCE):
        held = await executions.get_many(f"c:{name}" for name in names[at : at + _AT_ONCE])
        made = Commit()
        for old in held.values():
            state = {"state": ExecutionState.OFFERED, "changed": now, "first_offered": now}
            made += executions.changing(old, replace(old, **state, due=now + 86_400_000))
        await fleet.storage.commit(made)


def _report(name: str, state: str) -> Inbound:
    body: dict[str, Any] = {"execution": f"c:{name}", "state": state}
    if state == "downloading":
        body |= {"progress": 0.0, "bytes": 0}
    if state == "succeeded":
        body["version"] = _RELEASE
    return Inbound(type=FIRMWARE_STATUS, subject=name, payload=json.dumps(body).encode())


class _Reporting:
    """Devices that report every state of their update, one report outstanding each.

    Args:
        again: a device's next report follows the acknowledgement of its last one at once.
    """

    def __init__(self, fleet: Fleet, sessions: Sessions, names: list[str], *, again: bool) -> None:
        self._deliver, self._sessions, self._again = fleet.ingest.deliver, sessions, again
        self._ready = deque(deque(_report(name, state) for state in _SAID) for name in names)
        self._left, self.done = len(names) * len(_SAID), 0
        self.ended = asyncio.Event()

    def send(self, count: int) -> int:
        """Sends the next reports of at most so many devices; returns how many were sent."""
        count = min(count, len(self._ready))
        for _ in range(count):
            reports = self._ready.popleft()
            report = reports.popleft()
            self._deliver(self._sessions[report.subject], report, self._then(reports))
        return count

    def _then(self, reports: deque[Inbound]) -> Callable[[Outcome], None]:
        def done(outcome: Outcome) -> None:
            assert isinstance(outcome, Accepted), outcome
            self.done += 1
            if reports:
                self._ready.append(reports)
            if self._again:
                self.send(1)
            if self.done == self._left:
                self.ended.set()

        return done


async def _at(per_s: float, send: Callable[[int], int], until: asyncio.Event) -> None:
    """Sends so many a second, those of each moment together; what could not be sent is sent later."""
    begun, sent = time.perf_counter(), 0
    while not until.is_set():
        sent += send(int((time.perf_counter() - begun) * per_s) - sent)
        await asyncio.sleep(_EVERY_S)


class _Measuring:
    """Devices that send readings; how long each message took to its acknowledgement, in ms."""

    def __init__(self, fleet: Fleet, sessions: Sessions, names: list[str]) -> None:
        self._deliver, self._sessions, self._names = fleet.ingest.deliver, sessions, names
        self._now_ms, self._number = fleet.clock.now_ms, 0
        self.took: list[float] = []

    def send(self, count: int) -> int:
        """Sends so many messages."""
        for _ in range(count):
            name = self._names[self._number % len(self._names)]
            self._number += 1
            values = {f"m{metric}": self._number % 97 + metric / 4 for metric in range(_READINGS)}
            body = json.dumps({"time": self._now_ms(), "values": values}).encode()
            begun = time.perf_counter()

            def done(outcome: Outcome, begun: float = begun) -> None:
                assert isinstance(outcome, Accepted), outcome
                self.took.append((time.perf_counter() - begun) * 1000)

            self._deliver(self._sessions[name], Inbound(type=TELEMETRY, subject=name, payload=body), done)
        return count


async def _run(task: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(rate_per_s=1e9, burst=1 << 30, future_ms=1 << 40)
        fleet = await Fleet.open(Config(fleet=FleetSection(name="bench", data=folder), limits=limits))
        try:
            return await _measured(fleet, task)
        finally:
            await fleet.close()


async def _measured(fleet: Fleet, task: dict[str, Any]) -> dict[str, float]:
    names = [f"d-{number:06d}" for number in range(task["devices"])]
    senders = [f"s-{number:06d}" for number in range(_SENDERS)]
    sessions = await _prepared(fleet, [*names, *senders])
    if names:
        await _offered(fleet, names)
    reporting, measuring = (
        _Reporting(fleet, sessions, names, again=not task["per_s"]),
        _Measuring(fleet, sessions, senders),
    )
    if task["points_per_s"]:
        measuring.send(len(senders))  # the metrics are made before
        while len(measuring.took) < len(senders):
            await asyncio.sleep(_EVERY_S)
    await fleet.wait_idle()
    measuring.took.clear()
    settle_memory()
    ended = reporting.ended
    per_message = task["points_per_s"] / _READINGS
    ingest = asyncio.create_task(_at(per_message, measuring.send, ended)) if per_message else None
    begun, used = time.perf_counter(), time.process_time()
    if not names:
        await asyncio.sleep(task["seconds"])
    elif task["per_s"]:
        await _at(task["per_s"], reporting.send, ended)
    else:
        reporting.send(_WINDOW)
        await ended.wait()
    spent = time.perf_counter() - begun
    ended.set()
    if ingest is not None:
        await ingest
    await fleet.wait_idle()
    used = time.process_time() - used
    found = {"per_s": reporting.done / spent, "cpu_us": used / max(1, reporting.done) * 1e6, "seconds": spent}
    if measuring.took:
        took = sorted(measuring.took)
        found |= {"p50_ms": took[len(took) // 2], "p99_ms": took[len(took) * 99 // 100]}
        found["points_per_s"] = len(took) * _READINGS / spent
    if names:
        assert (await fleet.campaigns.get("c")).state.value == "succeeded"
        assert (await fleet.campaigns.counts("c")).states == {ExecutionState.SUCCEEDED: len(names)}
    return found


async def _said(task: dict[str, Any]) -> None:
    print(json.dumps(await _run(task)))


def main() -> None:
    """Runs the task and prints what was measured."""
    task = json.loads(sys.argv[1])
    if task.get("profile"):
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
        run_on("asyncio", _said(task))
        profile.disable()
        profile.dump_stats(task["profile"])
    else:
        run_on("uvloop", _said(task))


if __name__ == "__main__":
    main()
