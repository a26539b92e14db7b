"""Commands over MQTT from queued to succeeded, and a bulk command to connected devices, now and at an earlier commit.

The devices are in a separate process; the operator is in the server's. A figure is the processor time of the server's
process (user and system, all its threads) until everything has ended and the audit log has its rows. An earlier state
of the repository (``benchmarks/earlier.py``) does the same work in the same run, in turn.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from benchmarks.children import Child, allow_connections, child
from benchmarks.earlier import COMMIT, earlier
from benchmarks.measure import Row, at_least, at_most


@frozen(kw_only=True)
class Figure:
    """One run: what a piece of work costs the server, and how many a second there were."""

    cpu_us: float
    rate: float


def _names(count: int) -> list[str]:
    return [f"dev-{number:05d}" for number in range(count)]


def measured(kind: str, devices: int, each: int, checkout: Path | None = None) -> Figure:
    """A fleet with so many devices, and ``each`` commands (or changes of the twin) for each of them."""
    names = _names(devices)
    with (
        tempfile.TemporaryDirectory() as folder,
        child("commanding", {"data": folder, "devices": names}, checkout) as server,
    ):
        address = urlsplit(server.told["endpoint"])
        job: dict[str, Any] = {"job": kind, "devices": names, "each": each}
        if kind == "twins":
            return _figure(server, job, devices * each)
        load = {"kind": "commands", "host": address.hostname, "port": address.port, "devices": server.told["tokens"]}
        with child("load", load) as obeying:
            return _figure(server, job, devices * each, obeying, each)


def _figure(server: Child, job: dict[str, Any], pieces: int, load: Child | None = None, each: int = 0) -> Figure:
    idle = json.dumps({"job": "settle"})
    before, begun = server.ask(idle)["cpu_s"], time.perf_counter()
    seconds = server.ask(json.dumps(job))["seconds"]
    if load is not None:
        load.ask(str(each))
        seconds = time.perf_counter() - begun
    spent = server.ask(idle)["cpu_s"] - before
    return Figure(cpu_us=spent / pieces * 1e6, rate=pieces / seconds)


@frozen(kw_only=True)
class Compared:
    """The rounds of today's state, and those of the earlier one; none of those where it cannot be had."""

    ours: tuple[Figure, ...]
    theirs: tuple[Figure, ...]

    def rows(self, name: str, unit: str, cheaper: float) -> list[Row]:
        """Processor time and rate; ``cheaper`` is by how much the time is to be less."""
        cpu, rate = [run.cpu_us for run in self.ours], [run.rate for run in self.ours]
        if not self.theirs:
            middle = len(cpu) // 2
            return [Row(name=f"{name}, processor time", value=sorted(cpu)[middle], unit=f"µs/{unit}")]
        against = f"commit {COMMIT}"
        before = [run.cpu_us for run in self.theirs]
        return [
            at_most(f"{name}, processor time", cpu, against, before, f"µs/{unit}", 1 / cheaper),
            at_least(f"{name}, rate", rate, against, [run.rate for run in self.theirs], f"{unit}s/s", 1.0),
        ]


def compared(kind: str, devices: int, each: int, rounds: int, checkout: Path | None) -> Compared:
    """Both states in turn."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(measured(kind, devices, each))
        if checkout is not None:
            theirs.append(measured(kind, devices, each, checkout))
    return Compared(ours=tuple(ours), theirs=tuple(theirs))


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    rounds, few, many, bulk = (3, 100, 4, (300, 1_000)) if quick else (5, 200, 10, (1_000, 10_000))
    allow_connections(max(bulk))
    with earlier() as checkout:
        rows = compared("commands", 20, few, rounds, checkout).rows(
            "commands over MQTT, 20 devices, queued to succeeded", "command", 3
        )
        rows += compared("commands", 1_000, many, rounds if not quick else 1, checkout).rows(
            "commands over MQTT, 1,000 devices, queued to succeeded", "command", 3
        )
        rows += compared("bulk", bulk[0], 1, rounds, checkout).rows(
            f"bulk command to {bulk[0]:,} connected devices", "device", 3
        )
    small, large = [], []
    for _ in range(1 if quick else 3):
        small.append(measured("bulk", bulk[0], 1).cpu_us)
        large.append(measured("bulk", bulk[1], 1).cpu_us)
    name = f"bulk command to {bulk[1]:,} connected devices, processor time"
    rows.append(at_most(name, large, f"to {bulk[0]:,}", small, "µs/device", 1.3))
    return rows


if __name__ == "__main__":
    for row in run(quick=True):
        print(row)
