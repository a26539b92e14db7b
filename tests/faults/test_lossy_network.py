"""Lost, repeated, late and reordered datagrams: what is stored is what a loss-free network would have stored."""

import asyncio
import json
from collections import Counter
from urllib.parse import urlsplit

import pytest
from fleetcore_coap.plugin import open_client

from fleetcore.errors import Unavailable
from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages
from tests.faults.lossy import lossy

START_MS = 1_750_000_000_000
IMAGE = bytes(range(256)) * 40
#: Both need several blocks; the second is read back in blocks too.
LONG = [{"time": START_MS + number, "id": f"long-{number}", "values": {"b": number}} for number in range(120)]
REPORTED = {f"key-{number}": "x" * 40 for number in range(80)}
MESSAGES = 20


@pytest.fixture(autouse=True)
def quick(quick_coap):
    """Or a run would take minutes."""


class Program:
    """A device's program: it connects again where it must, says again what was not answered, runs a command once."""

    def __init__(self, endpoint, secrets):
        self.endpoint, self.secrets = endpoint, secrets
        self._client = None
        self._opening = asyncio.Lock()
        self.connections = 0
        self.ran = Counter()
        self.desired, self.image, self.read = {}, b"", {}

    async def run(self):
        """All that a device does; returns once it has followed everything that waits for it."""
        listening = asyncio.create_task(self._follow())
        for number in range(MESSAGES):
            body = {"time": START_MS + number, "values": {"a": number}}
            await self.send(messages.TELEMETRY, body, id=f"m{number}")
        await self.send(messages.TELEMETRY, LONG)
        await self.send(messages.TWIN_REPORT, REPORTED)
        self.read = (await self._done(lambda client: client.request(messages.TWIN_GET))).body["reported"]
        await listening
        await self.close()

    async def send(self, row, body, **more):
        reply = await self._done(lambda client: client.send(row, body, **more))
        assert reply.error is None, reply.error
        return reply

    async def _done(self, what):
        while True:
            client = None
            try:
                client = await self._connected()
                return await what(client)
            except Unavailable:
                await self._drop(client)

    async def _connected(self):
        async with self._opening:
            while self._client is None:
                try:
                    self._client = await open_client(self.endpoint, self.secrets).__aenter__()
                    self.connections += 1
                except Unavailable:
                    pass
            return self._client

    async def _drop(self, client):
        if client is not None and self._client is client:
            self._client = None
            await client.__aexit__(None, None, None)

    async def close(self):
        await self._drop(self._client)

    async def _follow(self):
        results = {}
        while len(self.ran) < 3 or not self.desired or len(self.image) < len(IMAGE):
            client = await self._connected()
            downlinks = client.downlinks()
            try:
                async for downlink in downlinks:
                    if downlink.type is messages.COMMAND:
                        name = downlink.body["id"]
                        if name not in results:
                            self.ran[downlink.body["name"]] += 1
                            results[name] = {"status": "succeeded", "output": downlink.body["name"]}
                        await self.send(messages.COMMAND_RESULT, results[name], target=name)
                    elif downlink.type is messages.TWIN_DESIRED:
                        await self.send(messages.TWIN_ACK, {"version": downlink.body["version"]})
                        self.desired = downlink.body["patch"]
                    elif downlink.type is messages.FIRMWARE and downlink.body.get("offer"):
                        await self._download(downlink.body["offer"]["sha256"])
                    if len(self.ran) == 3 and self.desired and len(self.image) == len(IMAGE):
                        break
            except Unavailable:
                await self._drop(client)
            finally:
                await downlinks.aclose()

    async def _download(self, sha256):
        while len(self.image) < len(IMAGE):
            client = await self._connected()
            try:
                async for piece in client.artifact(sha256, len(self.image)):
                    self.image += piece
            except Unavailable:
                await self._drop(client)


async def _stored(manager, device):
    """What operators see of a device."""
    twin = await manager.get_twin(device)
    return {
        "readings": {
            metric: sorted((await manager.query_telemetry(device, metric)).value.tolist()) for metric in ("a", "b")
        },
        "reported": twin["reported"],
        "desired": (twin["desired"], sorted(twin["unconverged"])),
        "commands": sorted(
            (command["name"], command["state"], json.dumps(command["output"]))
            for command in await manager.list_commands()
            if command["device"] == device
        ),
    }


async def _given(server, device):
    """A device with something of everything to do: half of it waits already, half comes while it is connected."""
    secrets = await server.device(device)
    artifact = await server.manager.upload_artifact(IMAGE)
    for name in ("first", "second"):
        await server.manager.send_command(device, name)
    await server.manager.update_firmware(
        f"c-{device}", "2.0.0", [device], "https://example.com/fw",
        sha256=artifact["sha256"], size=artifact["size_bytes"],
    )  # fmt: skip
    return secrets


async def _run(server, program, device):
    async with asyncio.timeout(PATIENCE_S):
        running = asyncio.create_task(program.run())
        while program.connections == 0:
            await asyncio.sleep(0.01)
        await server.manager.set_desired(device, {"interval": 60})
        await server.manager.send_command(device, "third")
        await running
    return await _stored(server.manager, device), program.ran, program.desired, program.image, program.read


def _through(server, kind, secrets, network=None):
    """A device's program by DTLS or OSCORE, straight to the server or through the network."""
    url, shown = (server.coap, secrets) if kind == "coap" else (server.oscore, server.by_token(secrets))
    return Program(url if network is None else f"{urlsplit(url).scheme}://127.0.0.1:{network.port}", shown)


def _port(server, kind):
    return urlsplit(server.coap if kind == "coap" else server.oscore).port


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", ["coap", "oscore"])
async def test_a_lossy_network_leaves_what_a_good_one_does(in_process, kind, seed):
    async with in_process(coap=True) as server:
        calm = await _run(server, _through(server, kind, await _given(server, "calm")), "calm")
        async with lossy(_port(server, kind), seed) as network:
            program = _through(server, kind, await _given(server, "tossed"), network)
            tossed = await _run(server, program, "tossed")
        fates = network.lost, network.repeated, network.late

    assert tossed == calm
    assert calm[1] == {"first": 1, "second": 1, "third": 1}
    assert calm[3] == IMAGE
    assert min(fates) >= 10


@pytest.mark.parametrize("kind", ["coap", "oscore"])
async def test_a_device_whose_port_changes_goes_on_and_nothing_is_lost_or_stored_twice(in_process, kind):
    async with in_process(coap=True) as server, lossy(_port(server, kind), 4) as network:
        program = _through(server, kind, await server.device("moved"), network)
        async with asyncio.timeout(PATIENCE_S):
            for number in range(6):
                if number == 3:
                    network.move()  # a NAT has forgotten the way; the server answers nobody it does not know
                body = {"time": START_MS + number, "values": {"a": number}}
                await program.send(messages.TELEMETRY, body, id=f"m{number}")
        await program.close()
        stored = (await server.manager.query_telemetry("moved", "a")).value.tolist()

    assert stored == list(range(6))
    assert program.connections >= (2 if kind == "coap" else 1)  # over DTLS it shakes hands again
