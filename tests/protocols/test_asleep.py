"""A device that sleeps is not woken, and loses nothing: what happens meanwhile is told once it wakes, on every protocol."""

import pytest

from fleetcore.wire import messages
from tests.protocols.conftest import GATEWAY, IMAGE, LEAF, SHA256, Listener

#: Protocols on which the server speaks first; over HTTP a device asks.
PUSHING = ["mqtt", "websocket", "coap", "coap by key", "oscore"]
ALL = [*PUSHING, "http"]


async def happen(operator, device=GATEWAY):
    """A command, a desired change and an offer for the device; returns the command."""
    sent = await operator("send_command", device_id=device, name="reboot")
    await operator("set_desired", device_id=device, patch={"interval": 60})
    await operator(
        "create_campaign", id=f"spring-{device}", release="2.0.0", devices=[device], sha256=SHA256, size=len(IMAGE)
    )
    await operator.settle()
    return sent


@pytest.mark.parametrize("protocol", PUSHING)
async def test_a_device_that_sleeps_on_an_open_connection_is_told_nothing_until_it_speaks(gateway, operator, protocol):
    await operator("set_desired", device_id=GATEWAY, patch={"interval": 30})
    async with gateway(protocol) as device:
        listener = Listener(device)
        await listener.until("twin.desired")  # the greeting
        listener.told.clear()
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 60})
        sent = await happen(operator)
        await operator.advance(40)
        assert listener.told == []
        assert (await operator("get_command", command=sent.id)).state == "queued"
        assert (await operator("get_device", device_id=GATEWAY)).connectivity == "asleep"

        await device.send(messages.TELEMETRY, {"temperature": 21.5})
        await operator.advance(2)
        await listener.until("command", "twin.desired", "firmware")

        assert {told.body["id"] for told in listener.told if told.type is messages.COMMAND} == {sent.id}
        await listener.close()


@pytest.mark.parametrize("protocol", ALL)
async def test_a_device_that_comes_back_at_its_wake_time_is_told_all_of_it(gateway, operator, protocol):
    async with gateway(protocol) as device:
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 300})
    sent = await happen(operator)
    await operator.advance(300)
    async with gateway(protocol) as device:
        listener = Listener(device)
        await listener.until("command", "twin.desired", "firmware")
        done = await device.send(messages.COMMAND_RESULT, {"status": "succeeded"}, target=sent.id)
        await operator.settle()
        assert done.error is None
        # An observation over CoAP may show the list of commands twice, with the same command.
        assert {told.body["id"] for told in listener.told if told.type is messages.COMMAND} == {sent.id}
        await listener.close()

    assert (await operator("get_command", command=sent.id)).state == "succeeded"


async def test_a_connection_that_ends_while_its_device_sleeps_leaves_it_asleep(gateway, operator):
    async with gateway("mqtt") as device:
        await device.send(messages.STATUS, {"state": "online", "session": "k9"})
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 300})
        # The last will, as a broker publishes it for a radio that is off.
        await device.send(messages.STATUS, {"state": "offline", "session": "k9"})
        assert (await operator("get_device", device_id=GATEWAY)).connectivity == "asleep"
    await operator.advance(300 + 10)

    assert (await operator("get_device", device_id=GATEWAY)).connectivity == "late"


@pytest.mark.parametrize("protocol", PUSHING)
async def test_a_sleep_that_is_over_ends_by_itself(gateway, operator, protocol):
    await operator("set_desired", device_id=GATEWAY, patch={"interval": 30})
    async with gateway(protocol) as device:
        listener = Listener(device)
        await listener.until("twin.desired")
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 5})
        await happen(operator)
        await operator.advance(4)
        assert "command" not in listener.kinds()
        await operator.advance(62)
        await listener.until("command", "firmware")
        await listener.close()


async def test_a_leaf_behind_a_sleeping_gateway_waits_with_it(gateway, operator):
    await operator("set_desired", device_id=GATEWAY, patch={"interval": 30})
    async with gateway("mqtt") as device:
        listener = Listener(device)
        await listener.until("twin.desired")
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 3600})
        await operator("send_command", device_id=LEAF, name="close")
        await operator.advance(60)
        assert "command" not in listener.kinds()
        await device.send(messages.STATUS, {"state": "online"})
        await operator.advance(2)
        await listener.until("command")
        assert [told.subject for told in listener.told if told.type is messages.COMMAND] == [LEAF]
        await listener.close()


@pytest.mark.parametrize("protocol", PUSHING)
async def test_a_device_that_wakes_for_a_moment_is_told_in_that_moment(gateway, operator, protocol):
    """It sends its reading and sleeps again at once, before the next look at what is held back."""
    await operator("set_desired", device_id=GATEWAY, patch={"interval": 30})
    async with gateway(protocol) as device:
        listener = Listener(device)
        await listener.until("twin.desired")
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 600})
        sent = await happen(operator)
        await operator.advance(30)
        assert "command" not in listener.kinds()

        await device.send(messages.TELEMETRY, {"temperature": 21.5})
        await operator.settle()
        await device.send(messages.STATUS, {"state": "sleeping", "for_s": 600})
        await operator.advance(2)

        await listener.until("command", "twin.desired", "firmware")
        assert {told.body["id"] for told in listener.told if told.type is messages.COMMAND} == {sent.id}
        await listener.close()
