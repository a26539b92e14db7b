"""The gateway in ``fleetcore demo``: leaves, a function, and an uplink that is cut for a while."""

import asyncio
import hashlib
import io
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fleetcore import files
from fleetcore.errors import FleetError
from fleetcore.frontends.library import IoTFleetManager
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.scene import Stage
from fleetcore.model.edge import Function
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.clock import SystemClock
from fleetcore.testing.faults.network import CutProxy
from fleetcore.testing.signers import Signers
from fleetcore.testing.simulator import SimulatedDevice
from fleetcore.wire.strict_json import dumps
from fleetcore_edge.functions.wanted import TRUST
from fleetcore_edge.uplink.config import FOLDER
from fleetcore_edge.uplink.credentials import Credentials
from fleetcore_edge.uplink.enrolling import enrol
from fleetcore_edge.uplink.service import Uplink

_GATEWAY, _MODEL, _LEAVES, _READINGS = "demo-gateway", "demo-gw", 3, 40
_FUNCTION = Function(metrics=("temperature",), every_ms=50, config={"deadband": 0.5}, replaces_raw=True)
_DAY_MS = 86_400_000
_TOML = """\
[fleet]
name = "site"
data = "."
hosts = ["127.0.0.1", "localhost"]
[limits]
rate_per_s = 100000.0
burst = 100000
[protocols.websocket]
listen = "wss://127.0.0.1:0"
[services.uplink]
url = "wss://127.0.0.1:{port}/device/v1/ws"
http = "{http}"
gateway = "demo-gateway"
model = "demo-gw"
live_commits = 20
batch_s = 0.05
"""


def _module() -> bytes:
    """The deadband function; in a checkout a link to where it is built."""
    return (Path(__file__).parent / "deadband.wasm").read_bytes()


async def play(stage: Stage) -> None:
    """Plays the scene; without a WebSocket and HTTP there is none."""
    if not {"websocket", "http"} <= stage.endpoints.keys():
        return
    signers, now = Signers(), SystemClock().now_ms()
    trust = signers.trust(expires=now + 365 * _DAY_MS)
    await stage.run("set_firmware_root", {"envelope": trust})
    await stage.run("create_device", {"id": _GATEWAY, "type": "gateway", "model": _MODEL})
    await stage.run("register_gateway", {"id": _GATEWAY, "may_register": True})
    port = urlsplit(stage.endpoints["websocket"]).port
    assert port is not None
    async with CutProxy("127.0.0.1", port) as line:
        await _enrol(stage, trust)
        toml = _TOML.format(port=line.port, http=stage.endpoints["http"])
        files.replace(stage.folder / "fleet.toml", toml.encode())
        async with IoTFleetManager(stage.folder, create=True) as manager:
            fleet = await manager.open()
            await fleet.serve()
            await _show(stage, signers, fleet, line)


async def _enrol(stage: Stage, trust: object) -> None:
    token = (await stage.run("create_enrollment_token", {"device": _GATEWAY}))["token"]
    credentials, make = Credentials(stage.folder / FOLDER, _GATEWAY, SystemClock()), stage.clients["websocket"]
    await enrol(credentials, make, stage.endpoints["websocket"], token=token, ca=stage.ca)
    files.replace(stage.folder / FOLDER / TRUST, dumps(trust))


async def _show(stage: Stage, signers: Signers, fleet: Fleet, line: CutProxy) -> None:
    uplink = fleet.services["uplink"]
    assert isinstance(uplink, Uplink)
    await _deploy(stage, signers)
    leaves = [await _leaf(stage, fleet, f"demo-press-{number}") for number in range(1, _LEAVES + 1)]
    sent = 0
    for part in range(2):
        if part:
            line.refuse()
            line.cut()
        sent += await _send(leaves, part)
    offline = not uplink.link.state.connected
    line.heal()
    humidity = [f"demo-press-{number}" for number in range(1, _LEAVES + 1)]

    async def arrived() -> bool:
        counts = [await _count(stage, device, "humidity") for device in humidity]
        return sum(counts) == sent

    await _until(arrived)
    through = sum([await _count(stage, device, "temperature") for device in humidity])
    stage.expect(
        offline and await arrived() and 0 < through < sent,
        f"{_LEAVES} leaves of a gateway sent {2 * sent} readings, half of them while its uplink was cut: all "
        f"{sent} of humidity arrived, and of {sent} of temperature the {through} that its function let through",
    )
    for leaf in leaves:
        await leaf.disconnect()


async def _deploy(stage: Stage, signers: Signers) -> None:
    content, now = _module(), SystemClock().now_ms()
    sha256 = hashlib.sha256(content).hexdigest()
    await stage.run("upload_artifact", {"content": io.BytesIO(content), "sha256": sha256})
    manifest = signers.manifest(
        content, name="deadband", seq=1, version="1.0.0", component="function.deadband", models=(_MODEL,),
        function=_FUNCTION, expires=now + 30 * _DAY_MS,
    )  # fmt: skip
    await stage.run("add_release", {"manifest": manifest})

    async def has_room() -> bool:
        return "resources" in (await stage.run("get_twin", {"device_id": _GATEWAY}))["reported"]

    await _until(has_room)
    given = {"function": "deadband", "campaign": "demo-deadband", "gateways": [_GATEWAY]}
    await stage.run("deploy_function", given)

    async def done() -> bool:
        return bool((await stage.run("get_campaign", {"campaign": "demo-deadband"}))["state"] == "succeeded")

    await _until(done)
    stage.expect(await done(), f"a WebAssembly function of {len(content)} bytes, signed, runs on the gateway")


async def _leaf(stage: Stage, fleet: Fleet, name: str) -> SimulatedDevice:
    secrets = DeviceSecrets(device=name, ca=fleet.security.authority.ca_pem())
    endpoint = fleet.protocols["websocket"].endpoints()[0]
    leaf = SimulatedDevice(secrets, stage.clients["websocket"], endpoint, fleet.clock)
    await leaf.enroll(await fleet.security.enrollment_tokens.create(device=name))
    await leaf.connect()
    return leaf


async def _send(leaves: list[SimulatedDevice], part: int) -> int:
    """Readings of temperature, which rises slowly, and of humidity; returns how many of each."""
    begin = int(time.time() * 1000) - 3_600_000 + part * 1_000_000
    for number in range(_READINGS):
        values = {"temperature": 20 + 0.1 * number, "humidity": 40.0 + number}
        for leaf in leaves:
            await leaf.send({"time": begin + 1000 * number, "values": values}, 2)
    return _READINGS * len(leaves)


async def _count(stage: Stage, device: str, metric: str) -> int:
    try:
        page = await stage.run("list_readings", {"device": device, "metric": metric, "limit": 1000})
    except FleetError:  # the core does not know it yet
        return 0
    return sum(len(each["points"]) for each in page["items"])


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    """Returns once it holds, or after a minute: then the account shows that it does not."""
    for _ in range(600):
        if await look():
            return
        await asyncio.sleep(0.1)
