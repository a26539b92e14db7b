"""The core of a gateway: a served fleet that counts the readings that arrive, and how long each new one took.

``python -m benchmarks.gateway_child`` reads its task as one JSON line, prints one when it serves, and answers every
further line: ``count``, ``deploy FUNCTION``, ``reported``.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loops import run_on
from fleetcore import IoTFleetManager
from fleetcore.model.edge import Function
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.process import settle_memory
from fleetcore.testing.signers import Signers

GATEWAY, LIVE = "gw-1", "live"
FUNCTIONS = Path(__file__).parents[1] / "plugins" / "fleetcore-edge" / "functions"
#: Far after the machine's time.
_ALWAYS = 4 * 10**12
_TOML = """\
[fleet]
name = "plant"
data = "."
hosts = ["localhost", "127.0.0.1"]
[protocols.websocket]
listen = "wss://127.0.0.1:0"
[protocols.http]
listen = "https://127.0.0.1:0"
[limits]
rate_per_s = 1e9
burst = 1000000000
"""


class Arrivals:
    """What the feed brings: counts and moments of old readings, and delays of new ones."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self.old, self.first, self.last = fleet, 0, 0.0, 0.0
        self.delays_ms: list[float] = []

    async def follow(self) -> None:
        """Counts without end."""
        storage = self._fleet.storage
        after = await storage.position()
        while True:
            await storage.wait_feed(after, 60.0)
            for entry in await storage.feed(after):
                after = entry.position
                if entry.readings is not None:
                    self._count(entry.readings.series, entry.readings.time)

    def _count(self, series: Any, times: Any) -> None:
        now, found = time.time(), np.unique(series)
        new = [at for at in found.tolist() if self._fleet.storage.catalog.series(at).metric == LIVE]
        is_new = np.isin(series, new)
        self.delays_ms += (now * 1000 - times[is_new]).tolist()
        if not is_new.all():
            self.first = self.first or now
            self.last = now
            self.old += int((~is_new).sum())

    def told(self) -> dict[str, Any]:
        """What was seen since the last time."""
        found = {
            "old": self.old,
            "seconds": self.last - self.first,
            "delays_ms": [round(each) for each in self.delays_ms],
        }
        self.old, self.first, self.last, self.delays_ms = 0, 0.0, 0.0, []
        return found


async def _deploy(manager: IoTFleetManager, signers: Signers, name: str, metrics: tuple[str, ...]) -> None:
    """Releases a function of the checked-in modules, and gives it to the gateway."""
    content = (FUNCTIONS / f"{name}.wasm").read_bytes()
    fleet = await manager.open()
    await fleet.campaigns.add_artifact(content)
    function = Function(metrics=metrics, every_ms=1000, config={"deadband": 1.5, "above": 80})
    await fleet.releases.add(
        signers.manifest(
            content, name=name, seq=1, version="1.0.0", component=f"function.{name}", models=("G-1",),
            function=function, expires=_ALWAYS,
        )
    )  # fmt: skip
    while "resources" not in (await manager.call("get_twin", device_id=GATEWAY))["reported"]:
        await asyncio.sleep(0.1)
    await manager.call("deploy_function", function=name, campaign=name, gateways=[GATEWAY])
    while (await manager.call("get_campaign", campaign=name))["state"] != "succeeded":
        await asyncio.sleep(0.1)


async def _serve(task: dict[str, Any]) -> None:
    folder, signers = Path(task["folder"]), Signers()
    async with IoTFleetManager(folder, create=True) as manager:
        fleet = await manager.open()
        await fleet.serve()
        await manager.create_device(GATEWAY, type="gateway", model="G-1")
        await manager.call("register_gateway", id=GATEWAY, may_register=True)
        await manager.set_firmware_root(signers.trust(expires=_ALWAYS))
        arrivals = Arrivals(fleet)
        following = asyncio.create_task(arrivals.follow())
        settle_memory()
        told: dict[str, Any] = {
            "websocket": fleet.protocols["websocket"].endpoints()[0],
            "http": fleet.protocols["http"].endpoints()[0],
            "ca": fleet.security.authority.ca_pem().decode(),
            "token": await fleet.security.enrollment_tokens.create(device=GATEWAY),
            "trust": signers.trust(expires=_ALWAYS),
        }
        print(json.dumps(told), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["deploy", name, *metrics]:
                    await _deploy(manager, signers, name, tuple(metrics))
                    found: dict[str, Any] = {}
                case ["register", *leaves]:
                    for leaf in leaves:
                        await manager.create_device(leaf, type="leaf")
                        await manager.call("attach_leaf", gateway_id=GATEWAY, device=leaf)
                    found = {}
                case ["seen"]:
                    found = {"old": arrivals.old}
                case _:
                    found = arrivals.told()
            print(json.dumps(found), flush=True)
        following.cancel()


def main() -> None:
    """Serves until its input ends."""
    task = json.loads(sys.stdin.readline())
    folder = Path(task["folder"])
    folder.mkdir(mode=0o700)
    (folder / "fleet.toml").write_text(_TOML)
    run_on("uvloop", _serve(task))


if __name__ == "__main__":
    main()
