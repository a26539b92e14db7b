"""The example protocol passes the contract, keeps its own bounds, and runs on a server."""

import asyncio
import importlib.util
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import ConfigError
from fleetcore.interfaces import DeviceSecrets
from fleetcore.model.message import Downlink
from fleetcore.testing import context
from fleetcore.testing.protocol_contract import ProtocolContract
from fleetcore.testing.recording_plane import RecordingPlane
from fleetcore.wire import messages

FILE = Path(__file__).parents[2] / "examples" / "one_file_protocol.py"


def load():
    spec = importlib.util.spec_from_file_location("one_file_protocol", FILE)
    module = sys.modules["one_file_protocol"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lines = load()


class TestLines(ProtocolContract):
    @pytest.fixture
    def open_adapter(self):
        config = lines.LinesConfig(listen="lines://127.0.0.1:0")
        return lambda plane: lines.open_lines(config, context("lines"), plane, plane)

    @pytest.fixture
    def client(self):
        return lambda endpoint, device: lines.LinesClient(
            endpoint, DeviceSecrets(device=device, token=RecordingPlane.token(device))
        )


async def dialogue(plane, lent, *frames):
    """What the server sends to a device that writes these bytes, as lines, until the connection ends or is quiet."""
    config = lines.LinesConfig(listen="lines://127.0.0.1:0")
    async with lines.open_lines(config, lent, plane, plane) as adapter:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(adapter.endpoints[0]).port)
        for frame in frames:
            writer.write(frame)
        writer.write_eof()
        came = await reader.read()
        writer.close()
        return came.decode()


def hello(device):
    return lines.Frame(op="hello", token=RecordingPlane.token(device)).with_body(b"")


async def test_an_unknown_operation_is_refused_and_told_to_the_plane():
    plane = RecordingPlane()

    came = await dialogue(plane, context("lines"), hello("dev1"), b'{"op": "nonsense", "n": 7, "size": 2}\n{}')

    assert '"n":7' in came
    assert '"code":"operation_unknown"' in came
    assert [one.rejected.code for one in plane.refusals] == ["operation_unknown"]


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b'{"op": "x", "size": -1}\n', b"[]\n", b"\xff\n"])
async def test_what_is_not_a_frame_ends_the_connection_and_is_counted(garbage):
    plane, lent = RecordingPlane(), context("lines")

    await dialogue(plane, lent, hello("dev1"), garbage)

    assert lent.counted["connections_lost"] == 1
    assert plane.sessions == []


async def test_a_wrong_token_is_answered_and_lets_nobody_in():
    plane = RecordingPlane()
    token = RecordingPlane.token("dev1")[:-1] + "x"

    came = await dialogue(plane, context("lines"), lines.Frame(op="hello", token=token).with_body(b""))

    assert '"code":"not_authenticated"' in came
    assert plane.sessions == []


async def test_a_device_that_reads_nothing_is_cut_off():
    plane = RecordingPlane()
    config = lines.LinesConfig(listen="lines://127.0.0.1:0")
    async with lines.open_lines(config, context("lines"), plane, plane) as adapter:
        _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(adapter.endpoints[0]).port)
        writer.write(hello("dev1"))
        while not plane.listening:
            await asyncio.sleep(0)

        for _ in range(500):
            plane.push(Downlink(type=messages.COMMAND, subject="dev1", body={"id": "c", "text": "x" * 65536}))
        while adapter.connections:
            await asyncio.sleep(0)

        assert plane.sessions == []
        writer.close()


async def test_a_peer_that_says_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(lines, "HELLO_S", 0.01)
    plane = RecordingPlane()
    config = lines.LinesConfig(listen="lines://127.0.0.1:0")
    async with lines.open_lines(config, context("lines"), plane, plane) as adapter:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(adapter.endpoints[0]).port)

        assert await reader.read() == b""
        writer.close()


async def test_it_listens_on_loopback_alone():
    for listen in ("lines://0.0.0.0:0", "tcp://127.0.0.1:0", "lines://127.0.0.1"):
        with pytest.raises(ConfigError, match="is not lines://"):
            async with lines.open_lines(lines.LinesConfig(listen=listen), context("lines"), None, None):
                pass


async def test_a_server_runs_it(tmp_path):
    shutil.copy(FILE, tmp_path)
    (tmp_path / "fleet.toml").write_text(
        '[fleet]\nname = "lab"\nplugins = ["./one_file_protocol.py"]\n'
        '[protocols.lines]\nlisten = "lines://127.0.0.1:0"\n'
    )

    async with IoTFleetManager(tmp_path, create=True) as manager:
        fleet = await manager.open()
        await fleet.serve()
        (endpoint,) = fleet.protocols["lines"].endpoints()
        await manager.register_device("th-1", "thermometer")
        token = (await manager.issue_device_token("th-1"))["token"]
        async with lines.LinesClient(endpoint, DeviceSecrets(device="th-1", token=token)) as device:
            reply = await device.send(messages.TELEMETRY, {"temperature": 21.5})
            (latest,) = (await manager.list_device_latest_readings("th-1")).items
            await manager.send_command("th-1", "reboot")
            command = await anext(device.downlinks())
            result = await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target=command.body["id"])
            await manager.revoke_device("th-1", reason="stolen")
            assert [downlink async for downlink in device.downlinks()] == [], "its connection ends"

    assert (reply.status, result.status) == (204, 204)
    assert (latest.metric, latest.value) == ("temperature", 21.5)
    assert command.type is messages.COMMAND
