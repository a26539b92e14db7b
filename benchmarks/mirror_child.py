"""The processes of the mirror's benchmark, by their ``role``: a cloud's counterpart, its bare SDK, or a fleet's mirror.

Each answers a line with a line: the name of what is to be done, with its arguments as JSON behind a space.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import asdict

from benchmarks.hubs import CLOUDS
from fleetcore import IoTFleetManager
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import load
from fleetcore.runtime.mirroring import Mirror
from fleetcore.runtime.process import settle_memory

_PART = 1000
_AT_ONCE = 100
#: How long a process works before it answers that it goes on.
_TURN_S = 60.0

Answer = Callable[..., Awaitable[dict[str, Any]]]


def thing(number: int) -> dict[str, Any]:
    """What is sent of a device, by its mirror and by the bare SDK."""
    return {"type": "sensor", "tags": ["outdoor"], "attributes": {"site": "north", "row": f"r{number % 40}"}}


async def serve(does: dict[str, Answer], told: dict[str, Any]) -> None:
    """Answers lines until the input ends."""
    print(json.dumps(told), flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        name, _, given = line.partition(" ")
        print(json.dumps(await does[name](**json.loads(given or "{}"))), flush=True)


async def hub(task: dict[str, Any]) -> None:
    """A cloud's counterpart, which answers after a stated time."""
    async with CLOUDS[task["cloud"]].hub(task["delay_s"]) as running:

        async def calls() -> dict[str, Any]:
            return {"calls": dict(running.front.calls), "made": running.made(), "twins": running.twins()}

        async def faults(**given: Any) -> dict[str, Any]:
            for name, value in given.items():
                setattr(running.front.faults, name, value)
            return {}

        async def existing(devices: int) -> dict[str, Any]:
            """What others had made before."""
            assert running.existing is not None
            running.existing(devices)
            return {}

        does: dict[str, Answer] = {"calls": calls, "faults": faults, "existing": existing}
        await serve(does, asdict(running.told))


async def sdk(task: dict[str, Any]) -> None:
    """An SDK as its manual has it: a call a device, in a loop or in so many threads."""
    threads = task["threads"]
    with CLOUDS[task["cloud"]].sdk(task) as make:

        async def run(first: int, count: int, at_once: int = 1) -> dict[str, Any]:
            begun, used = time.perf_counter(), time.process_time()
            parts = [range(at, min(at + at_once, first + count)) for at in range(first, first + count, at_once)]
            if threads == 1:
                for part in parts:
                    make(part)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(make, parts))
            return {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used}

        make(range(1 << 30, (1 << 30) + 1))  # the first call makes the connection
        await serve({"run": run}, {})


async def fleet(task: dict[str, Any]) -> None:
    """A fleet from a folder, with its mirrors at work."""
    settle_memory()
    folder = Path(task["folder"])
    async with IoTFleetManager(config=load(folder / "fleet.toml"), create=True) as manager:
        opened = await manager.open()
        await _fill(opened, task["devices"])
        begun_s = time.perf_counter()
        await opened.serve()

        imports: list[str] = []

        async def importing() -> bool:
            return "running" in [(await manager.get_operation(each)).state for each in imports]

        async def step(held: int) -> dict[str, Any]:
            """Until the hubs hold so many entities and nothing waits; empty where that takes longer than a turn."""
            until_s = time.perf_counter() + _TURN_S
            for mirror in opened.mirrors.values():
                while await importing() or not await _in_step(opened, mirror, held):
                    if time.perf_counter() > until_s:
                        return {}
                    await asyncio.sleep(0.02)
            throttled = sum(sum(mirror.pace.throttled.values()) for mirror in opened.mirrors.values())
            return {"seconds": time.perf_counter() - begun_s, "resident": _resident(), "throttled": throttled}

        async def fill(devices: int) -> dict[str, Any]:
            """Registers devices, and waits until the hubs hold them."""
            begun, used = time.perf_counter(), time.process_time()
            await _fill(opened, devices)
            assert await step(devices)
            return {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used}

        async def change(devices: int, value: int) -> dict[str, Any]:
            for first in range(0, devices, _AT_ONCE):
                part = range(first, min(devices, first + _AT_ONCE))
                await asyncio.gather(*(opened.twins.desire(f"dev-{device}", {"interval": value}) for device in part))
            return {}

        async def ingest(devices: int, rounds: int) -> dict[str, Any]:
            begun, used = time.perf_counter(), time.process_time()
            for number in range(rounds):
                sent = [manager.collect_telemetry(f"dev-{at}", "heat", float(number)) for at in range(devices)]
                await asyncio.gather(*sent)
            return {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used}

        async def behind() -> dict[str, Any]:
            """Until every mirror has found that its hub is down, and waits."""
            for mirror in opened.mirrors.values():
                while mirror.sender.state != "failing" or mirror.sender.counts["failed"] < 3:
                    await asyncio.sleep(0.02)
            return {}

        async def resume() -> dict[str, Any]:
            nonlocal begun_s
            begun_s = time.perf_counter()
            for name in opened.mirrors:
                await manager.resume_mirror(name)
            return {}

        async def take_over(mirror: str) -> dict[str, Any]:
            """Begins to import what is at the hub."""
            imports.append((await manager.import_mirror(mirror)).id)
            return {}

        async def taken_over() -> dict[str, Any]:
            """How many entities the mirrors know by now."""
            kept = [await mirror.sender.states.counts() for mirror in opened.mirrors.values()]
            return {"entities": sum(each.get("held", 0) for each in kept), "resident": _resident()}

        does: dict[str, Answer] = {
            "take_over": take_over,
            "taken_over": taken_over,
            "step": step,
            "fill": fill,
            "change": change,
            "ingest": ingest,
            "resume": resume,
            "behind": behind,
        }
        await serve(does, {"resident": _resident()})


async def _in_step(opened: Fleet, mirror: Mirror, held: int) -> bool:
    kept = await mirror.sender.states.counts()
    if kept.get("held", 0) < held or not mirror.sender.idle or mirror.tracker.snapshot is not None:
        return False
    return mirror.tracker.status.position >= await opened.storage.position() - 1000


async def _fill(opened: Fleet, devices: int) -> None:
    """Registers the devices that are not there yet."""
    for first in range(0, devices, _PART):
        names = {f"dev-{number}": number for number in range(first, min(devices, first + _PART))}
        for name in await opened.devices.holders(names):
            names.pop(name, None)
        part = [opened.devices.checked(name, **thing(number)) for name, number in names.items()]
        await opened.storage.commit(opened.devices.registrations(part))


def _resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Reads the task."""
    task = json.loads(sys.stdin.readline())
    asyncio.run({"hub": hub, "sdk": sdk, "fleet": fleet}[task["role"]](task))


if __name__ == "__main__":
    main()
