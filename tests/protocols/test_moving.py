"""A device moves from one protocol to another in the middle of a command, and of a download: nothing lost, nothing twice."""

import hashlib
from itertools import permutations

import pytest

from fleetcore.wire import messages
from tests.protocols.conftest import GATEWAY, IMAGE, SHA256, Listener

ALL = ["mqtt", "http", "coap", "coap by key", "oscore", "websocket"]


@pytest.mark.parametrize(("first", "second"), list(permutations(ALL, 2)))
async def test_a_command_that_is_told_on_one_protocol_is_answered_on_another(gateway, operator, first, second):
    sent = await operator("send_command", device_id=GATEWAY, name="reboot")
    async with gateway(first) as device:
        listener = Listener(device)
        await listener.until("command")
        await device.send(messages.COMMAND_RESULT, {"status": "running", "progress": 40}, target=sent.id)
        await listener.close()
    await operator.advance(5)
    async with gateway(second) as device:
        listener = Listener(device)
        await listener.until("command")  # told again: the device may have lost it
        assert {each.body["id"] for each in listener.told if each.type is messages.COMMAND} == {sent.id}
        done = await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target=sent.id)
        again = await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target=sent.id)
        assert (done.error, again.error) == (None, None)
        await listener.close()

    assert (await operator("get_command", command=sent.id)).state == "succeeded"
    await operator.settle()
    events = [row.action for row in (await operator("list_audit", limit=100)).items if row.object == sent.id]
    assert sorted(events).count("command.succeeded") == 1


@pytest.mark.parametrize(("first", "second"), list(permutations(["http", "coap", "oscore"], 2)))
async def test_a_download_goes_on_where_it_stopped_on_another_protocol(gateway, operator, first, second):
    campaign = {"id": "spring", "release": "2.0.0", "devices": [GATEWAY], "sha256": SHA256, "size": len(IMAGE)}
    await operator("create_campaign", **campaign)
    content = b""
    async with gateway(first) as device:
        async for piece in device.artifact(SHA256):
            content += piece
            if len(content) >= len(IMAGE) // 3:
                break
    assert len(content) < len(IMAGE)
    async with gateway(second) as device:
        async for piece in device.artifact(SHA256, len(content)):
            content += piece

    assert hashlib.sha256(content).hexdigest() == SHA256


@pytest.mark.parametrize(("first", "second"), list(permutations(ALL, 2)))
async def test_a_message_that_is_sent_again_over_another_protocol_is_stored_once(gateway, operator, first, second):
    reading = {"time": 1_769_860_800_000, "values": {"temperature": 21.5}}
    for protocol in (first, second):
        async with gateway(protocol) as device:
            reply = await device.send(messages.TELEMETRY, reading, id="m-1")
            assert reply.error is None
    await operator.settle()
    (series,) = (await operator("list_readings", metric="temperature", device=GATEWAY)).items

    assert len(series.points) == 1
