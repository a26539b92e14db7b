"""The running server's socket: the same refusals as on the folder itself."""

import asyncio
import hashlib
import json
import os
import pwd
import struct

import pytest

from fleetcore import IoTFleetManager
from fleetcore.cli.exits import exit_code
from fleetcore.errors import FleetError, Refused
from fleetcore.frontends.control import serve_control
from fleetcore.frontends.control_client import ControlClient
from fleetcore.testing.patience import PATIENCE_S

REFUSED = [
    ("list_devices", {"where": "type = 'a"}),
    ("explain_query", {"device_id": "a", "where": "tags hs 'x'"}),
    ("send_command", {"device_id": "a", "name": "x", "precondition": "bad ("}),
    ("set_desired", {"device_id": "a", "patch": {"x": 1}, "if_version": 9}),
    ("create_device", {"id": "a", "type": "sensor"}),
    ("get_device", {"device_id": "nobody"}),
    ("count_commands", {"operation": "nothing"}),
    ("set_lifecycle", {"device_id": "a", "state": "sleepy"}),
    ("unlock_root_key", {"key": "none"}),
]


@pytest.mark.parametrize(("name", "given"), REFUSED)
async def test_a_refusal_has_the_same_code_and_exit_code(tmp_path, name, given):
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        await manager.register_device("a", "sensor")

        with pytest.raises(FleetError) as direct:
            await getattr(manager, name)(**given)
        with pytest.raises(FleetError) as through:
            await ControlClient(tmp_path).run(name, given)

    assert (through.value.code, str(through.value)) == (direct.value.code, str(direct.value))
    assert exit_code(through.value) == exit_code(direct.value) > 1


@pytest.mark.parametrize(
    "line", ['{"call": "list_devices"}', '{"call": "call_as", "args": ["root", "list_devices", {}]}']
)
async def test_a_line_without_what_is_given_is_refused(tmp_path, line):
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        writer.write(line.encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()

    assert answer["error"]["kind"] == "Refused"


async def test_what_comes_through_the_socket_is_done_in_the_name_of_its_user(tmp_path):
    async with IoTFleetManager(tmp_path, actor="library:the-server") as manager, serve_control(manager, tmp_path):
        await ControlClient(tmp_path).run("create_group", {"id": "lab"})
        await manager.create_group("hall")
        await manager.wait_idle()
        actors = {row.object: row.actor for row in await manager.list_audit()}

    assert actors["lab"] == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert actors["hall"] == "library:the-server"


# --- bytes in frames ----------------------------------------------------------------------------------------------------

IMAGE = bytes(range(256)) * 64
DIGEST = hashlib.sha256(IMAGE).hexdigest()


def kept(folder):
    return [one for one in (folder / "artifacts").rglob("*") if one.is_file()]


async def parts():
    for first in range(0, len(IMAGE), 1000):
        yield IMAGE[first : first + 1000]


@pytest.mark.parametrize("given", ["bytes", "path", "text", "pieces", "async"])
async def test_an_image_goes_in_frames_however_it_is_given(tmp_path, given):
    file = tmp_path / "image"
    file.write_bytes(IMAGE)
    sources = {"bytes": IMAGE, "path": file, "text": str(file), "pieces": [IMAGE[:9], b"", IMAGE[9:]], "async": parts()}
    data = tmp_path / "data"
    async with IoTFleetManager(data) as manager, serve_control(manager, data):
        client = ControlClient(data)

        made = await client.run("upload_artifact", {"content": sources[given], "size": len(IMAGE)})

        assert made == {"sha256": DIGEST, "size_bytes": len(IMAGE)}
        assert await client.run("list_devices", {}) == {"items": [], "next": None}


async def test_a_refused_upload_ends_before_its_last_piece(tmp_path):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            yield bytes(1 << 20)
            sent += 1

    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        for given in ({"size": 5}, {"sha256": "none"}):
            with pytest.raises(Refused):
                async with asyncio.timeout(PATIENCE_S):
                    await ControlClient(tmp_path).run("upload_artifact", {"content": endless(), **given})

    assert sent > 0
    assert kept(tmp_path) == []


async def test_an_upload_whose_source_fails_leaves_nothing(tmp_path):
    async def broken():
        yield IMAGE
        raise OSError("the disk is gone")

    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        with pytest.raises(OSError, match="the disk is gone"):
            await ControlClient(tmp_path).run("upload_artifact", {"content": broken()})
        async with asyncio.timeout(PATIENCE_S):
            while kept(tmp_path):
                await asyncio.sleep(0.01)

        with pytest.raises(FileNotFoundError):
            await ControlClient(tmp_path).run("upload_artifact", {"content": tmp_path / "nothing"})


async def spoken(folder, line, *frames):
    """What the socket answers to a line and frames as they are, and whether it then goes on to listen."""
    reader, writer = await asyncio.open_unix_connection(folder / "control.sock")
    writer.write(json.dumps(line).encode() + b"\n" + b"".join(frames))
    writer.write(b'{"call": "get_status", "given": {}}\n')
    answers = [await reader.readline(), await reader.readline()]
    writer.close()
    return [json.loads(answer) for answer in answers if answer]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"call": "upload_artifact", "given": {}}, "schema_invalid"),
        ({"call": "upload_artifact", "given": {"content": "/etc/hostname"}}, "schema_invalid"),
        ({"call": "upload_artifact", "given": {"content": "/etc/hostname"}, "stream": True}, "schema_invalid"),
        ({"call": "list_devices", "given": {}, "stream": True}, "schema_invalid"),
        ({"call": "nothing", "given": {}, "stream": True}, "operation_unknown"),
    ],
)
async def test_frames_that_no_call_takes_are_read_and_the_next_line_is_answered(tmp_path, line, code):
    frames = [struct.pack(">I", 3) + b"abc", struct.pack(">I", 0)] if "stream" in line else []
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        refused, status = await spoken(tmp_path, line, *frames)

    assert refused["error"]["code"] == code
    assert "result" in status


async def test_a_frame_beyond_the_bound_ends_the_connection(tmp_path):
    line = {"call": "upload_artifact", "given": {}, "stream": True}
    async with IoTFleetManager(tmp_path) as manager, serve_control(manager, tmp_path):
        answers = await spoken(tmp_path, line, struct.pack(">I", 1 << 31))

    assert [answer["error"]["code"] for answer in answers] == ["limit_exceeded"]
    assert kept(tmp_path) == []


@pytest.mark.parametrize("source", [7, [1, 2], ["text"], None])
async def test_what_is_no_bytes_is_refused(source):
    async with IoTFleetManager() as manager:
        with pytest.raises(Refused, match="is not bytes"):
            await manager.upload_artifact(source)
