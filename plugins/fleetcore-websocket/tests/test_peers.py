"""Devices from other projects: npm's ws, and aiohttp's client, which shares no code with the endpoint."""

import asyncio
import json
import os
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import cbor2
import pytest

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.testing.protocol_contract import COMMAND, OFFER
from fleetcore.testing.recording_plane import RecordingPlane

HERE = Path(__file__).parent
TOKEN = RecordingPlane.token("dev1")


@pytest.fixture(scope="module")
def node() -> dict[str, str]:
    """The environment in which node finds ws where ``scripts/services.sh`` puts it: in build/, or Debian's package."""
    paths = [str(HERE.parents[2] / "build" / "node_modules"), "/usr/share/nodejs", os.environ.get("NODE_PATH", "")]
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(path for path in paths if path)}
    found = subprocess.run(["node", "-e", "require('ws')"], env=environment, capture_output=True, check=False)
    if found.returncode:
        message = "the peer 'ws' of npm is not installed: sh scripts/services.sh"
        if os.environ.get("FLEETCORE_REQUIRE") == "all":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return environment


class Peer:
    """The process, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> dict[str, object]:
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line, (await self._process.stderr.read()).decode()
        return json.loads(line)

    def write(self, line: object) -> None:
        text = line if isinstance(line, str) else json.dumps(line)
        self._process.stdin.write(text.encode() + b"\n")


@pytest.fixture
def ws(authority, served, node):
    """Runs ws: ``async with ws(device="dev1", protocols=[…]) as peer``."""

    @asynccontextmanager
    async def run(device: str | None = None, *, protocols: tuple[str, ...] = ("fleetcore.v1",), **given: object):
        given |= {"url": served.url, "protocols": list(protocols), "ca": str(authority.path)}
        if device is not None:
            own = authority.device(device)
            given |= {"cert": str(own.certificate_path), "key": str(own.key_path)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "node", str(HERE / "peer.js"), json.dumps(given), env=node, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            yield Peer(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return run


@pytest.mark.peer("node")
async def test_ws_is_a_device_with_a_certificate(ws, plane):
    plane.desire("dev1", 12, {"interval": 60})
    async with ws("dev1") as peer:
        assert await peer.read() == {"open": "fleetcore.v1", "extensions": ""}
        assert (await peer.read())["body"]["device"] == "dev1"
        assert (await peer.read())["body"]["patch"] == {"interval": 60}
        peer.write({"op": "telemetry", "id": 1, "body": {"temperature": 21.5}})
        assert await peer.read() == {"re": 1, "ok": True, "status": 204, "pending": {"desired": 12}}
        plane.command("dev1", COMMAND)
        assert (await peer.read())["body"] == COMMAND
        peer.write({"op": "command.result", "id": 2, "target": COMMAND["id"], "body": {"status": "succeeded"}})
        assert (await peer.read())["ok"]
        plane.offer("dev1", OFFER)
        assert await peer.read() == {"op": "firmware", "body": OFFER}
        plane.cancel("dev1", COMMAND["id"])
        assert (await peer.read())["target"] == COMMAND["id"]
        peer.write({"op": "twin.get", "id": "t"})
        assert (await peer.read())["body"]["desired"] == {"interval": 60}
        peer.write("close")
        assert await peer.read() == {"close": 1000, "reason": "bye"}

    assert [(one.message.type.name, one.message.target) for one in plane.received] == [
        ("telemetry", None), ("command.result", COMMAND["id"]),
    ]  # fmt: skip


@pytest.mark.peer("node")
async def test_ws_speaks_cbor(ws, plane):
    async with ws("dev1", protocols=("fleetcore.v1.cbor",), hex=True) as peer:
        assert (await peer.read())["open"] == "fleetcore.v1.cbor"
        assert cbor2.loads(bytes.fromhex((await peer.read())["hex"]))["op"] == "hello"
        peer.write(cbor2.dumps({"op": "telemetry", "id": 1, "body": {"t": 21.5}}).hex())
        reply = cbor2.loads(bytes.fromhex((await peer.read())["hex"]))

    assert reply == {"re": 1, "ok": True, "status": 204}
    (message,) = plane.messages
    assert (cbor2.loads(message.payload), message.content_type) == ({"t": 21.5}, "application/cbor")


@pytest.mark.peer("node")
async def test_ws_with_a_token_and_without(ws):
    async with ws(headers={"Authorization": f"Bearer {TOKEN}"}) as peer:
        assert (await peer.read())["open"] == "fleetcore.v1"
    async with ws(protocols=("fleetcore.v1", f"fleetcore.token.{TOKEN}")) as peer:
        assert (await peer.read())["open"] == "fleetcore.v1"
    async with ws() as peer:
        assert await peer.read() == {"status": 401}
    async with ws("dev1", origin="https://evil.example") as peer:
        assert await peer.read() == {"status": 403}


@pytest.mark.peer("node")
async def test_ws_reads_why_it_was_disconnected(ws, plane):
    async with ws("dev1") as peer:
        await peer.read(), await peer.read()
        plane.revoke("dev1")
        assert await peer.read() == {"close": 4403, "reason": "device_revoked"}
    async with ws("dev2") as peer:
        await peer.read(), await peer.read()
        peer.write("x" * 400_000)
        assert (await peer.read())["close"] == 1009


async def test_aiohttp_is_a_device_whose_offer_to_compress_is_declined(served, authority, plane):
    aiohttp = pytest.importorskip("aiohttp")
    tls: ssl.SSLContext = authority.secrets("dev1").tls()
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(served.url, ssl=tls, protocols=["fleetcore.v1"], compress=15) as socket,
    ):
        assert socket.compress == 0
        assert (await socket.receive_json())["op"] == "hello"
        await socket.send_json({"op": "telemetry", "id": 1, "body": {"name": "温度" * 1000}})
        assert (await socket.receive_json())["ok"]
        await socket.ping()
        await socket.send_json({"op": "time", "id": 2, "body": {"client": 5}})
        assert (await socket.receive_json())["body"]["client"] == 5

    assert len(plane.received) == 1
