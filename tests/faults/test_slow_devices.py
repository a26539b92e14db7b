"""A device that reads nothing for a while, against a real fleet: what it is told later adds up to what the fleet wants."""

import asyncio

import pytest

from fleetcore.testing.patience import PATIENCE_S
from fleetcore.wire import messages


def merge(document, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    document = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            document.pop(name, None)
        else:
            document[name] = merge(document.get(name), value)
    return document


@pytest.fixture
async def fleet(in_process):
    async with in_process('[protocols.websocket]\nlisten = "wss://127.0.0.1:0"\n') as server:
        yield server


async def test_state_that_changed_meanwhile_adds_up_and_every_command_arrives(fleet, until):
    secrets = await fleet.device("dev1")
    async with fleet.client("websocket", secrets) as device:
        connection = fleet.fleet.protocols["websocket"].adapter._by_device["dev1"]
        device._socket.transport.pause_reading()
        patches = 0
        while connection.writable:
            patches += 1
            await fleet.manager.set_desired("dev1", {"big": f"{patches}" * 15_000, f"k{patches}": {"x": patches}})
            if patches > 2:  # what is taken away again, or replaced by something of another shape
                await fleet.manager.set_desired("dev1", {f"k{patches - 2}": None, f"k{patches - 1}": patches})
        for number in range(5):
            await fleet.manager.set_desired("dev1", {"a": None if number % 2 else {"x": 1}, "n": number})
        await fleet.manager.set_desired("dev1", {"a": {"y": 2}, "big": None})
        sent = [await fleet.manager.send_command("dev1", "blink", lane=f"lane-{number}") for number in range(3)]
        wanted = await fleet.manager.get_twin("dev1")
        held = connection._downlinks.held
        device._socket.transport.resume_reading()

        desired, version, commands = {}, 0, set()
        async with asyncio.timeout(PATIENCE_S):
            async for downlink in device.downlinks():
                if downlink.type is messages.TWIN_DESIRED:
                    assert downlink.body["since"] in {0, version}
                    desired = merge(desired if downlink.body["since"] else {}, downlink.body["patch"])
                    version = downlink.body["version"]
                elif downlink.type is messages.COMMAND:
                    commands.add(downlink.body["id"])
                if version == wanted["desired_version"] and len(commands) == len(sent):
                    break

    assert desired == wanted["desired"]
    assert commands == {one["id"] for one in sent}
    assert held <= 2
