"""Commands that come in: kept before they are acknowledged, each once, and none that holds up the others."""

import asyncio
import json
from contextlib import aclosing

import pytest

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudCommand
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S


async def gathered(arriving, count):
    """The commands and reasons that come next, so many together."""
    events, invalid = [], []
    async with asyncio.timeout(PATIENCE_S):
        async for arrived in arriving:
            events += arrived.events
            invalid += arrived.invalid
            if len(events) + len(invalid) >= count:
                return events, invalid
    raise AssertionError("the stream has ended")


async def test_commands_are_read_in_the_forms_that_are_documented(cloud, hub):
    hub.put(json.dumps({"device": "a.b", "command": "reboot", "args": {"delay_s": 5}, "id": "mine"}).encode())
    hub.put(b"", device="a.b", command="blink", id="yours")
    hub.put(b'{"command": "locate"}', "a.b")

    async with aclosing(cloud.inbound(None)) as arriving:
        events, invalid = await gathered(arriving, 3)

    assert events[:2] == [
        CloudCommand(id="mine", device="a.b", name="reboot", args={"delay_s": 5}),
        CloudCommand(id="yours", device="a.b", name="blink", args={}),
    ]
    assert (events[2].device, events[2].name) == ("a.b", "locate")
    assert events[2].id.isdecimal()
    assert invalid == []


@pytest.mark.parametrize(
    "data",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"device": "a"}',
        b'{"command": "x"}',
        b'{"device": "a", "command": "x", "args": []}',
        b"\xff",
        b"[" * 100_000,
    ],
)
async def test_what_cannot_be_read_is_told_taken_off_and_holds_up_nothing(cloud, hub, data):
    key = "" if b"x" in data else "a"
    hub.put(data, key)
    hub.put(b'{"device": "a", "command": "blink"}', key)

    async with aclosing(cloud.inbound(None)) as arriving:
        events, invalid = await gathered(arriving, 2)
        hub.put(b'{"device": "a", "command": "later"}', key)
        await gathered(arriving, 1)

    assert [each.name for each in events] == ["blink"]
    assert len(invalid) == 1
    assert len(hub.front.hub.subscriptions[hub.names.commands].entries) <= 1


async def test_what_was_not_kept_comes_again_at_once_and_in_order(cloud, hub):
    for name in ("first", "second", "third"):
        await hub.command("a", name, {})
    async with aclosing(cloud.inbound(None)) as arriving:
        before, _ = await gathered(arriving, 1)

    async with aclosing(cloud.inbound(None)) as arriving:
        events, _ = await gathered(arriving, 3)

    assert [each.name for each in events] == ["first", "second", "third"]
    assert before[0].id == events[0].id


async def test_a_lost_acknowledgement_and_a_redelivery_bring_the_same_command_again(cloud, hub, front):
    front.faults.acks_lost, front.faults.redelivered = 1, 1
    await hub.command("a", "reboot", {})
    async with aclosing(cloud.inbound(None)) as arriving:
        events, _ = await gathered(arriving, 2)

    assert len({each.id for each in events}) == 1


async def test_a_stream_that_was_cut_is_told_and_one_that_had_lived_is_opened_again(opened, hub, front):
    clock = MovableClock()
    async with opened(clock=clock) as cloud, aclosing(cloud.inbound(None)) as arriving:
        await hub.command("a", "first", {})
        first, _ = await gathered(arriving, 1)
        waiting = asyncio.ensure_future(gathered(arriving, 1))
        await clock.advance(11)
        front.faults.cuts += 1
        await hub.command("a", "second", {})
        second, _ = await waiting
        waiting = asyncio.ensure_future(gathered(arriving, 1))
        while front.hub.subscriptions[hub.names.commands].entries:
            await asyncio.sleep(0.01)
        front.faults.cuts += 1
        with pytest.raises(Unavailable):
            await waiting

    assert first[0].name == "first"
    assert second[-1].name == "second"


async def test_a_command_that_is_held_is_extended(opened, hub, front):
    clock = MovableClock()
    async with opened(clock=clock) as cloud, aclosing(cloud.inbound(None)) as arriving:
        await hub.command("a", "slow", {})
        await gathered(arriving, 1)
        (entry,) = front.hub.subscriptions[hub.names.commands].entries
        before_s = entry.until_s
        await clock.advance(21)
        async with asyncio.timeout(PATIENCE_S):
            while entry.until_s <= before_s:
                await asyncio.sleep(0.01)

    assert front.calls["ModifyAckDeadline"] >= 1


async def test_a_command_that_the_fleet_never_keeps_becomes_a_dead_letter_and_frees_its_key(opened, hub, front):
    for resource in (front.hub.topics[hub.names.topic("commands-dead")], front.hub.subscriptions[hub.names.commands]):
        for role in ("roles/pubsub.publisher", "roles/pubsub.subscriber"):
            binding = resource.policy.bindings.add(role=role)
            binding.members.append("serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com")
    await hub.command("a", "poison", {})
    names = []
    for at in range(6):
        if at == 5:
            await hub.command("a", "harmless", {})
        async with opened() as cloud, aclosing(cloud.inbound(None)) as arriving:
            events, _ = await gathered(arriving, 1)  # and the server ends before it is kept
            names.append(events[0].name)

    assert names == [*["poison"] * 5, "harmless"]
    assert [json.loads(each.data)["command"] for each in hub.messages("commands-dead")] == ["poison"]


async def test_without_a_subscription_or_the_right_to_it_nothing_comes_and_it_is_told(opened, front, hub):
    del front.hub.subscriptions[hub.names.commands]
    async with opened() as cloud:
        with pytest.raises(Unavailable, match="create = true"):
            await anext(cloud.inbound(None))
        front.faults.granted = {}
        with pytest.raises(CredentialsRejected) as failure:
            await anext(cloud.inbound(None))

    assert "pubsub.subscriptions.consume" in failure.value.remedy
