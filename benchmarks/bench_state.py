"""Fleet state: twin updates, now and at an earlier commit, and complete commands over MQTT with real clients.

Twins in process and through the operators' API. An update is one commit with its history; many at once share a sync to
disk. Commands go to real MQTT 5 clients over the fleet's own endpoint, in one process: the clients' work is in the
figure.
"""

import asyncio
import tempfile
import time

from fleetcore_mqtt.client import MqttDeviceClient

from benchmarks.bench_commands import compared
from benchmarks.earlier import earlier
from benchmarks.measure import Row
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.interfaces.provider import Limits
from fleetcore.model.command import CommandState
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, FleetSection, Instance
from fleetcore.wire import messages

_DEVICES = 20
_AT_ONCE = 64
_CLIENTS = 16


def run(*, quick: bool = False) -> list[Row]:
    """The rows of this benchmark."""
    with earlier() as checkout:
        found = compared("twins", _AT_ONCE, 40 if quick else 200, 3 if quick else 5, checkout)
    rows = found.rows(f"twins, desired and reported, {_AT_ONCE} devices at once", "update", 2)
    return [*rows, *asyncio.run(_run(20 if quick else 100))]


async def _run(each: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            fleet=FleetSection(name="bench", data=folder),
            limits=Limits(rate_per_s=1e9, burst=1 << 30),
            protocols=(Instance(name="mqtt", kind="mqtt", table={"listen": "mqtt://127.0.0.1:0"}),),
        )
        fleet = await Fleet.open(config)
        try:
            await fleet.serve()
            names = [f"dev-{number:03d}" for number in range(_AT_ONCE)]
            for name in names:
                await fleet.devices.register(name, "bench")
            alone = await _twins(fleet, names[:1], each)
            together = await _twins(fleet, names, each)
            through_api = await _twins_by_api(fleet, names[:_CLIENTS], each)
            commands = await _commands(fleet, names[:_DEVICES], each)
        finally:
            await fleet.close()
    unit = "updates/s"
    return [
        Row(name="desired twin updates, one after the other", value=alone, unit=unit),
        Row(name=f"desired twin updates, {_AT_ONCE} devices at once", value=together, unit=unit),
        Row(name=f"the same through the operators' API, {_CLIENTS} at once", value=through_api, unit=unit),
        Row(
            name=f"commands over MQTT, {_DEVICES} devices: queued, sent, accepted, succeeded",
            value=commands,
            unit="commands/s",
        ),
    ]


async def _twins(fleet: Fleet, names: list[str], each: int) -> float:
    async def one(name: str) -> None:
        for number in range(each):
            await fleet.twins.desire(name, {"interval": number, "of": len(names)})

    begun = time.perf_counter()
    await asyncio.gather(*(one(name) for name in names))
    return each * len(names) / (time.perf_counter() - begun)


async def _twins_by_api(fleet: Fleet, names: list[str], each: int) -> float:
    """The client is in this process too: its work is in the figure."""
    from fleetcore_api.config import ApiConfig
    from fleetcore_api.plugin import open_api

    from fleetcore.client import AsyncFleetClient

    await fleet.operators.grant("bench", "admin")
    token = (await fleet.operators.create_token("bench")).token
    config = ApiConfig(listen="http://127.0.0.1:0", requests_per_minute=1 << 30)

    async def one(client: AsyncFleetClient, name: str) -> None:
        for number in range(each):
            await client.set_desired(name, {"interval": number, "by": "api"})

    async with (
        open_api(config, fleet._context("bench"), fleet) as server,
        AsyncFleetClient(server.url, token) as client,
    ):
        begun = time.perf_counter()
        await asyncio.gather(*(one(client, name) for name in names))
        return each * len(names) / (time.perf_counter() - begun)


async def _commands(fleet: Fleet, names: list[str], each: int) -> float:
    url = fleet.protocols["mqtt"].adapter.endpoints[0]
    ready = asyncio.Barrier(len(names) + 1)

    async def device(name: str) -> None:
        token = await fleet.security.device_tokens.issue(name)
        async with MqttDeviceClient(url, DeviceSecrets(device=name, token=token)) as client:
            await ready.wait()
            done: set[str] = set()
            async for downlink in client.downlinks():
                if downlink.type is not messages.COMMAND:
                    continue
                command = str(downlink.body["id"])
                if command not in done:
                    done.add(command)
                    for status in ("accepted", "succeeded"):
                        await client.send(messages.COMMAND_RESULT, {"status": status}, target=command)
                if len(done) == each:
                    return

    async def operator(name: str) -> None:
        # Each in a lane of its own: one lane has one unfinished command at a time.
        for number in range(each):
            await fleet.commands.send(name, "blink", lane=f"lane-{number % 8}")

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(device(name))
        await ready.wait()
        begun = time.perf_counter()
        for name in names:
            group.create_task(operator(name))
    spent = time.perf_counter() - begun
    ended = [item for name in names for item in await fleet.commands.list(name)]
    assert all(item.state is CommandState.SUCCEEDED for item in ended)
    return len(ended) / spent
