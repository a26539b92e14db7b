"""The control socket where the other end is rude, leaves, or the server stops: answered in words, and nothing kept."""

import asyncio
import json
import logging
import struct

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Unavailable
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.testing.open_files import open_files
from fleetcore.testing.patience import PATIENCE_S, soonest

WAITING = {"call": "send_command", "given": {"device_id": "a", "name": "blink", "wait_s": 1e6}}
LEFT = {
    "who waits": json.dumps(WAITING).encode() + b"\n",
    "who waits for the fleet": b'{"call": "wait_idle", "given": {}}\n',
    "who follows": b'{"call": "watch_events", "given": {}}\n',
    "who uploads": b'{"call": "upload_artifact", "given": {}, "stream": true}\n' + struct.pack(">I", 100) + b"x" * 50,
    "who says nothing": b"",
}


@pytest.fixture
async def socket(tmp_path):
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        await manager.register_device("a", "sensor")
        yield tmp_path


async def speak(folder, said):
    reader, writer = await asyncio.open_unix_connection(folder / "control.sock")
    writer.write(said)
    return reader, writer


def conversations():
    return [task for task in asyncio.all_tasks() if "_Conversation" in repr(task.get_coro())]


@pytest.mark.parametrize(
    ("line", "code", "pointer"),
    [
        (b"no json", "payload_unreadable", ""),
        (b"\xff\xfe", "payload_unreadable", ""),
        (b"[" * 100_000, "payload_unreadable", ""),
        (b'{"call": "x", "given": ' + b'{"a":' * 100 + b"1" + b"}" * 101, "payload_unreadable", ""),
        (b"[]", "schema_invalid", ""),
        (b"null", "schema_invalid", ""),
        (b"{}", "schema_invalid", "/call"),
        (b'{"call": ["get_device"], "given": {}}', "schema_invalid", "/call"),
        (b'{"call": "get_device"}', "schema_invalid", "/given"),
        (b'{"call": "get_device", "given": null}', "schema_invalid", "/given"),
        (b'{"call": "get_device", "given": [["device_id", "a"]]}', "schema_invalid", "/given"),
    ],
)
async def test_a_hostile_line_is_refused_and_the_next_one_is_answered(socket, line, code, pointer):
    reader, writer = await speak(socket, line + b'\n{"call": "get_device", "given": {"device_id": "a"}}\n')

    refused, device = [json.loads(await reader.readline()) for _ in range(2)]
    writer.close()

    error = refused["error"]
    assert (error["kind"] == "FleetError", error["code"], error["ids"]["pointer"]) == (False, code, pointer)
    assert "object has no attribute" not in error["message"]
    assert device["result"]["id"] == "a"


async def test_a_fault_of_ours_is_answered_and_logged(socket, monkeypatch, caplog):
    async def broken(*_given, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(IoTFleetManager, "call_as", broken)
    reader, writer = await speak(socket, b'{"call": "get_device", "given": {}}\n' * 2)

    with caplog.at_level(logging.ERROR):
        codes = [json.loads(await reader.readline())["error"]["code"] for _ in range(2)]
    writer.close()

    assert codes == ["internal", "internal"]
    assert "ZeroDivisionError" in caplog.text


async def under_way(count):
    """Returns once so many conversations are, and had time to get to where they wait."""
    async with asyncio.timeout(PATIENCE_S):
        while len(conversations()) < count:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert conversations()


@pytest.mark.parametrize("who", LEFT)
async def test_of_one_that_leaves_nothing_is_kept_after_a_second(socket, who, monkeypatch):
    async def never(_fleet):
        await asyncio.Event().wait()

    monkeypatch.setattr("fleetcore.runtime.app.Fleet.wait_idle", never)
    loop, before = asyncio.get_running_loop(), open_files()

    async def left():
        _, writer = await speak(socket, LEFT[who])
        await under_way(1)
        writer.transport.abort()
        begun = loop.time()
        async with asyncio.timeout(PATIENCE_S):
            while conversations():
                await asyncio.sleep(0.02)
        assert not open_files() - before
        return loop.time() - begun

    assert await soonest(left, 1) < 1


async def test_one_that_has_said_all_and_listens_is_answered(socket):
    reader, writer = await speak(socket, b'{"call": "get_device", "given": {"device_id": "a"}}\n')
    writer.write_eof()

    assert json.loads(await reader.read())["result"]["id"] == "a"
    writer.close()


async def test_a_server_that_stops_ends_its_connections_and_answers_who_waits(tmp_path, caplog):
    loop, said = asyncio.get_running_loop(), {}
    async with IoTFleetManager(tmp_path) as manager:
        await manager.register_device("a", "sensor")

        async def stopped():
            async with serve_control(manager, tmp_path):
                opened = {who: await speak(tmp_path, said) for who, said in LEFT.items() if "fleet" not in who}
                items = ControlClient(tmp_path).stream("watch_events", {"type": ["nothing."]})
                following = asyncio.ensure_future(anext(items))
                await under_way(len(opened) + 1)
                begun = loop.time()
            took_s = loop.time() - begun
            assert conversations() == []
            async with asyncio.timeout(PATIENCE_S):
                said.update({who: await reader.read() for who, (reader, _) in opened.items()})
                with pytest.raises(Unavailable):
                    await following
            for _, writer in opened.values():
                writer.close()
            return took_s

        assert await soonest(stopped, 1) < 1

    command = json.loads(said["who waits"])["result"]
    assert (command["device"], command["finished_at"]) == ("a", None)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_one_that_does_not_read_keeps_no_server_from_stopping(tmp_path):
    loop = asyncio.get_running_loop()
    async with IoTFleetManager(tmp_path) as manager:
        await manager.register_device("a", "sensor")

        async def stopped():
            async with serve_control(manager, tmp_path):
                _, writer = await speak(tmp_path, LEFT["who follows"])
                writer.transport.pause_reading()
                await under_way(1)
                for number in range(500):
                    await manager.update_device("a", name=f"{number}", reason="x" * 1000)
                begun = loop.time()
            took_s = loop.time() - begun
            assert conversations() == []
            writer.transport.abort()
            return took_s

        assert await soonest(stopped, 2) < 2
