"""A fleet whose operator is in its own process: on a word it sends commands or changes twins, and says what that cost.

It is run as a file, by the path, with the packages of the checkout that is measured first on ``PYTHONPATH``: so the
release of today and an earlier one do the same work in one run. It uses only what both have, and nothing of this
package. A line of JSON on standard input is the task, every further line is a job, each answered with a line.
"""

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

from fleetcore.interfaces.provider import Limits
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection, Instance
from fleetcore.runtime.process import settle_memory

_TOGETHER = 100


async def _prepared(fleet: Fleet, devices: list[str]) -> list[list[str]]:
    tokens = []
    for at in range(0, len(devices), _TOGETHER):
        some = devices[at : at + _TOGETHER]
        await asyncio.gather(*(fleet.devices.register(device, "bench") for device in some))
        issued = await asyncio.gather(*(fleet.security.device_tokens.issue(device) for device in some))
        tokens += [[device, token] for device, token in zip(some, issued, strict=True)]
    return tokens


async def _commands(fleet: Fleet, job: dict[str, Any]) -> None:
    """So many commands to each device, each in a lane of its own among eight: they do not wait for one another."""

    async def one(device: str) -> None:
        for number in range(job["each"]):
            await fleet.commands.send(device, "blink", {"times": number}, lane=f"lane-{number % 8}")

    await asyncio.gather(*(one(device) for device in job["devices"]))


async def _bulk(fleet: Fleet, job: dict[str, Any]) -> None:
    """One bulk command to all devices, until the operation has ended."""
    many = job["devices"]
    operation = await fleet.bulk_commands.send("blink", {"times": 1}, devices=many, cap=len(many))
    await fleet.operations.run(operation.id)


async def _twins(fleet: Fleet, job: dict[str, Any]) -> None:
    """Desired and reported in turn, a caller per device."""

    async def one(device: str) -> None:
        for number in range(job["each"] // 2):
            await fleet.twins.desire(device, {"interval": number, "of": len(job["devices"])})
            await fleet.twins.report(device, {"interval": number, "at": {"boot": number}})

    await asyncio.gather(*(one(device) for device in job["devices"]))


async def _idle(_fleet: Fleet, _job: dict[str, Any]) -> None:
    return


_JOBS = {"commands": _commands, "bulk": _bulk, "twins": _twins, "settle": _idle}


async def _serve(task: dict[str, Any]) -> None:
    config = Config(
        fleet=FleetSection(name="bench", data=task["data"]),
        limits=Limits(rate_per_s=1e9, burst=1 << 30, future_ms=1 << 50),
        protocols=(Instance(name="mqtt", kind="mqtt", table={"listen": "mqtt://127.0.0.1:0"}),),
    )
    fleet = await Fleet.open(config)
    try:
        tokens = await _prepared(fleet, task["devices"])
        await fleet.serve()
        settle_memory()
        print(json.dumps({"endpoint": fleet.protocols["mqtt"].adapter.endpoints[0], "tokens": tokens}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            job = json.loads(line)
            begun = time.perf_counter()
            await _JOBS[job["job"]](fleet, job)
            spent = time.perf_counter() - begun
            # What follows from it, the rows of the audit log among it, is in the figure.
            await fleet.wait_idle()
            print(json.dumps({"seconds": spent, "cpu_s": time.process_time()}), flush=True)
    finally:
        await fleet.close()


def main() -> None:
    task = json.loads(sys.stdin.readline())
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    work = _serve(task)
    with asyncio.Runner(loop_factory=factory) as runner:
        if task.get("profile"):
            import cProfile

            profile = cProfile.Profile()
            profile.enable()
            runner.run(work)
            profile.disable()
            profile.dump_stats(task["profile"])
        else:
            runner.run(work)


if __name__ == "__main__":
    main()
