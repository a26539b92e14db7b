"""One import in a process of its own, by whatever fleetcore is on its path: how long, and how much memory at most.

``python benchmarks/import_child.py TASK`` prints one JSON line; it imports nothing of ``benchmarks``, so that it also
runs on an earlier state of the repository.
"""

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection
from fleetcore.runtime.process import settle_memory

_TYPES = ("thermometer", "pump", "meter", "valve", "camera")
_PART = 5000


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Devices as a delivery of them is described: a type, a tag, two attributes."""
    return [
        {
            "id": f"d-{number:07d}",
            "type": _TYPES[number % 5],
            "tags": ["production"] if number % 50 == 1 else ["other"],
            "attributes": {"floor": number % 40, "battery": number % 1001 / 10},
        }
        for number in range(first, first + count)
    ]


def parts(count: int) -> Iterator[list[dict[str, Any]]]:
    """The same in parts, as the command line sends a file."""
    for first in range(0, count, _PART):
        yield rows(first, min(_PART, count - first))


async def _import(fleet: Fleet, count: int) -> str:
    importing: Any = fleet.importing
    if not hasattr(importing, "add"):
        # Releases before 0.2 take the whole file at once.
        operation = await importing.start(rows(0, count))
        return str(operation.id)
    operation = None
    for number, part in enumerate(parts(count), 1):
        more = number * _PART < count
        if operation is None:
            operation = await importing.start(part, more=more)
        else:
            await importing.add(operation.id, part, more=more)
    assert operation is not None
    return str(operation.id)


def _peak_kib() -> int:
    """The peak of this process: getrusage's begins with that of the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1])


async def _run(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        fleet = await Fleet.open(Config(fleet=FleetSection(name="bench", data=folder)))
        try:
            before = _peak_kib()
            begun, processor = time.perf_counter(), time.process_time()
            ended = await fleet.operations.run(await _import(fleet, count))
            await fleet.wait_idle()
            took, used = time.perf_counter() - begun, time.process_time() - processor
            peak = _peak_kib()
            assert (ended.done, ended.failed) == (count, 0)
            return {"s": took, "cpu_s": used, "peak_mib": (peak - before) / 1024}
        finally:
            await fleet.close()


def main() -> None:
    """Runs the task and prints what was measured."""
    task = json.loads(sys.argv[1])
    if task["settle"]:
        settle_memory()
    print(json.dumps(asyncio.run(_run(task["count"]))))


if __name__ == "__main__":
    main()
