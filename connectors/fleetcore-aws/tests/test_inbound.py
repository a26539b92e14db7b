"""What comes through the queue: commands, changed shadows, and what cannot be read."""

import asyncio
import json
import time
from contextlib import aclosing

import pytest
from attrs import evolve

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudChange, CloudCommand
from fleetcore.model.mirror import EntityKey
from fleetcore.testing.patience import PATIENCE_S

QUEUE = "http://127.0.0.1/123456789012/commands"


@pytest.fixture
async def cloud(opened):
    async with opened(commands_queue=QUEUE, queue_wait_s=1, thing_prefix="p-") as cloud:
        yield cloud


async def put(hub, *bodies):
    for body in bodies:
        text = body if isinstance(body, str) else json.dumps(body)
        await hub.call("sqs", "send_message", QueueUrl=QUEUE, MessageBody=text)


async def test_commands_and_changes_are_read_in_the_forms_that_rules_give(cloud, hub):
    await put(
        hub,
        {"device": "a.b", "command": "reboot", "args": {"delay_s": 5}, "id": "mine"},
        {"thing": "p-a:2Eb", "command": "blink"},
        {"thing": "p-a:2Eb", "previous": {}, "current": {"version": 2}},
    )

    async with aclosing(cloud.inbound(None)) as arriving:
        arrived = await anext(arriving)

    first, second, third = arrived.events
    assert evolve(first, given=None) == CloudCommand(id="mine", device="a.b", name="reboot", args={"delay_s": 5})
    assert abs(first.given - time.time() * 1000) < 600_000
    assert (second.device, second.name, second.args) == ("a.b", "blink", {})
    assert len(second.id) == 36
    assert third == CloudChange(entity=EntityKey("twin", "a.b"))
    assert arrived.position is None


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        "{}",
        {"device": "a"},
        {"thing": "q-a", "command": "x"},
        {"device": "a", "command": "x", "args": []},
    ],
)
async def test_what_cannot_be_read_is_said_and_taken_off_the_queue(cloud, hub, front, body):
    await put(hub, body)
    async with aclosing(cloud.inbound(None)) as arriving:
        arrived = await anext(arriving)
        await put(hub, {"device": "a", "command": "reboot"})
        await anext(arriving)

    assert arrived.events == []
    assert len(arrived.invalid) == 1
    assert front.calls["sqs:DeleteMessage"] == 1


async def test_a_message_that_comes_while_the_mirror_stops_comes_again_at_once(cloud, hub, front):
    arriving = cloud.inbound(None)
    waiting = asyncio.create_task(anext(arriving))
    while not front.calls.get("sqs:ReceiveMessage"):
        await asyncio.sleep(0.001)
    waiting.cancel()
    await put(hub, {"device": "a", "command": "reboot"})
    while not front.back.hub.queues["commands"][0].receipt:
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await arriving.aclose()
    assert front.back.hub.visible("commands"), "nobody has to wait until it is visible again by itself"

    async with asyncio.timeout(PATIENCE_S), aclosing(cloud.inbound(None)) as again:
        arrived = await anext(again)

    assert [each.name for each in arrived.events] == ["reboot"]


async def test_a_queue_that_is_down_or_closed_to_us_is_told(cloud, front):
    front.faults.down = True
    with pytest.raises(Unavailable):
        await anext(cloud.inbound(None))
    front.faults.heal()
    front.faults.refused = "AccessDeniedException"
    with pytest.raises(CredentialsRejected):
        await anext(cloud.inbound(None))


async def test_without_a_queue_nothing_comes(opened):
    async with opened() as cloud:
        assert not cloud.limits.commands
        assert [each async for each in cloud.inbound(None)] == []
