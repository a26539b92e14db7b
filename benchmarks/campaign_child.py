"""The end of a campaign for so many devices: the processor time that the last of them cost.

``python -m benchmarks.campaign_child TASK`` prints one JSON line. All but the last devices have succeeded by direct
commits.
"""

import asyncio
import json
import sys
import tempfile
import time
from typing import Any

from msgspec.structs import replace

from fleetcore.model.device import Device
from fleetcore.model.firmware import ExecutionState
from fleetcore.model.message import Accepted
from fleetcore.model.store import Commit
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection
from fleetcore.runtime.process import settle_memory
from fleetcore.wire.messages import FirmwareStatus

_AT_ONCE = 2000
_RELEASE, _DIGEST = "2.0.0", "a" * 64
_SAID = ("accepted", "downloading", "succeeded")


async def _made(fleet: Fleet, names: list[str], last: int) -> None:
    for at in range(0, len(names), _AT_ONCE):
        devices = [Device(id=name, type="pump", created=1, updated=1) for name in names[at : at + _AT_ONCE]]
        await fleet.storage.commit(
            Commit(puts=tuple(fleet.devices.records.put(device, expect=0) for device in devices))
        )
    await fleet.campaigns.create("c", _RELEASE, names, "https://updates.example.com/2", sha256=_DIGEST, size=1)
    executions = fleet.campaigns.executions
    done = names[: len(names) - last]
    for at in range(0, len(done), _AT_ONCE):
        commit = Commit()
        for name in done[at : at + _AT_ONCE]:
            old = await executions.get(f"c:{name}")
            assert old is not None
            commit += executions.changing(old, replace(old, state=ExecutionState.SUCCEEDED))
        await fleet.storage.commit(commit)


async def _run(count: int, last: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        fleet = await Fleet.open(Config(fleet=FleetSection(name="bench", data=folder)))
        try:
            names = [f"d-{number:06d}" for number in range(count)]
            await _made(fleet, names, last)
            await fleet.wait_idle()
            begun = time.process_time()
            for name in names[-last:]:
                assert await fleet.updates.offer(name) is not None
                for state in _SAID:
                    body: dict[str, Any] = {"execution": f"c:{name}", "state": state}
                    if state == "succeeded":
                        body["version"] = _RELEASE
                    outcome = await fleet.updates.status(name, FirmwareStatus(**body))
                    assert isinstance(outcome, Accepted), outcome
            used = time.process_time() - begun
            assert (await fleet.campaigns.get("c")).state.value == "succeeded"
            return {"cpu_ms": used / last * 1000}
        finally:
            await fleet.close()


def main() -> None:
    """Runs the task and prints what was measured."""
    task = json.loads(sys.argv[1])
    settle_memory()
    print(json.dumps(asyncio.run(_run(task["count"], task["last"]))))


if __name__ == "__main__":
    main()
