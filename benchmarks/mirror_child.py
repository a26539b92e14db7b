"""The processes of the mirror's benchmark, by their ``role``: AWS in dictionaries, the bare SDK, or a fleet's mirror.

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

from fleetcore import IoTFleetManager
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import load
from fleetcore.runtime.mirroring import Mirror
from fleetcore.runtime.process import settle_memory

REGION = "us-east-1"
_PART = 1000
_AT_ONCE = 100

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
    """AWS in dictionaries, which answers after a stated time."""
    from fleetcore_aws.testing.front import HubBack, serving
    from fleetcore_aws.testing.hub import Hub, Shadow, Thing

    made = Hub()
    async with serving(HubBack(made), delay_s=task["delay_s"]) as front:

        async def calls() -> dict[str, Any]:
            return {"calls": dict(front.calls), "messages": len(front.messages)}

        async def faults(**given: Any) -> dict[str, Any]:
            for name, value in given.items():
                setattr(front.faults, name, value)
            return {}

        async def existing(things: int) -> dict[str, Any]:
            """What others had made before."""
            for number in range(things):
                name = f"pump-{number}"
                made.things[name] = Thing(type=None, attributes={"site": "north", "row": f"r{number % 40}"})
                made.shadows[name] = {"": Shadow(state={"desired": {"interval": number}, "reported": {}}, version=1)}
            return {}

        does: dict[str, Answer] = {"calls": calls, "faults": faults, "existing": existing}
        await serve(does, {"endpoint": front.endpoint})


async def sdk(task: dict[str, Any]) -> None:
    """boto3 as its manual has it: a call a device, in a loop or in so many threads."""
    import boto3
    from botocore.config import Config

    threads = task["threads"]
    client = boto3.client(
        "iot", region_name=REGION, endpoint_url=task["endpoint"], config=Config(max_pool_connections=threads)
    )

    def make(number: int) -> None:
        attributes = {"site": "north", "row": f"r{number % 40}", "tags": "outdoor", "fleet": "sdk", "state": "active"}
        payload = {"attributes": attributes}
        client.create_thing(thingName=f"sdk-{number}", thingTypeName="sdk", attributePayload=payload)

    async def run(first: int, count: int) -> dict[str, Any]:
        begun, used = time.perf_counter(), time.process_time()
        numbers = range(first, first + count)
        if threads == 1:
            for number in numbers:
                make(number)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(make, numbers))
        return {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used}

    client.create_thing_type(thingTypeName="sdk")
    make(0)  # the first call makes the connection
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

        async def step(held: int) -> dict[str, Any]:
            """Until the hubs hold so many entities and nothing waits."""
            for mirror in opened.mirrors.values():
                while not await _in_step(opened, mirror, held):
                    await asyncio.sleep(0.02)
            throttled = sum(sum(one.pace.throttled.values()) for one in opened.mirrors.values())
            return {"seconds": time.perf_counter() - begun_s, "resident": _resident(), "throttled": throttled}

        async def fill(devices: int) -> dict[str, Any]:
            """Registers devices, and waits until the hubs hold them."""
            begun, used = time.perf_counter(), time.process_time()
            await _fill(opened, devices)
            await step(devices)
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
                while mirror.lane.state != "failing" or mirror.lane.counts["failed"] < 3:
                    await asyncio.sleep(0.02)
            return {}

        async def resume() -> dict[str, Any]:
            nonlocal begun_s
            begun_s = time.perf_counter()
            for name in opened.mirrors:
                await manager.resume_mirror(name)
            return {}

        async def take_over() -> dict[str, Any]:
            """Imports what is at the hub."""
            started = await manager.import_mirror("aws")
            while (await manager.get_operation(started.id)).state == "running":
                await asyncio.sleep(0.1)
            return {}

        does: dict[str, Answer] = {
            "take_over": take_over,
            "step": step,
            "fill": fill,
            "change": change,
            "ingest": ingest,
            "resume": resume,
            "behind": behind,
        }
        await serve(does, {"resident": _resident()})


async def _in_step(opened: Fleet, mirror: Mirror, held: int) -> bool:
    kept = await mirror.lane.kept.counts()
    if kept.get("held", 0) < held or not mirror.lane.idle or mirror.looking.snapshot is not None:
        return False
    return mirror.looking.status.position >= await opened.storage.position() - 1000


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
