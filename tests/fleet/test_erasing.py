"""Erasing takes all of a device. Guards against a place that is forgotten: what was refused of it holds readings too."""

from fleetcore.model.message import Inbound, Rejected
from fleetcore.wire import messages


async def test_refused_messages_of_an_erased_device_go_with_it(fleet):
    refused = Rejected(code="schema_invalid", reason="for the test")
    for device in ("gone", "stays"):
        await fleet.devices.register(device, "sensor")
        message = Inbound(type=messages.TELEMETRY, subject=device, payload=b'{"pulse": 61, "at": "home"}')
        fleet.dead_letters.add(device, message, refused)
    await fleet.erasing.erase("gone")

    assert [letter.device for letter in await fleet.dead_letters.list()] == ["stays"]
