"""Receive: a bounded queue that says when to stop, and one outcome a message."""

import asyncio

import pytest

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted
from fleetcore.pipeline.receive import Receiver
from fleetcore.pipeline.refusals import Refusals
from fleetcore.wire.messages import STATUS, TELEMETRY

LIMITS = Limits(queue_messages=4, queue_bytes=10_000)


@pytest.fixture
async def queue(clock):
    batches = []

    async def process(batch):
        batches.append(len(batch))
        for delivery in batch:
            delivery[2](Accepted(stored=1))

    receiver = Receiver(LIMITS, clock, process, Refusals(lambda *_: None))
    receiver.batches = batches
    return receiver


async def test_reading_stops_at_half_and_goes_on_when_the_queue_is_empty(queue, delivery, outcomes):
    went_on = [queue.deliver(*delivery({})[:3]) for _ in range(6)]

    assert went_on == [True, True, False, False, False, False]
    assert [outcome.code for outcome in outcomes] == ["overloaded"] * 2
    task = asyncio.create_task(queue.run())
    await queue.ready()
    await queue.drain()
    task.cancel()
    assert queue.batches == [4]
    assert outcomes[2:] == [Accepted(stored=1)] * 4


async def test_the_bound_in_bytes_counts_the_payloads(queue, delivery, outcomes):
    assert queue.deliver(*delivery(b" " * 4000)[:3]) is True
    assert queue.deliver(*delivery(b" " * 4000)[:3]) is False
    queue.deliver(*delivery(b" " * 4000)[:3])

    assert [outcome.code for outcome in outcomes] == ["overloaded"]


async def test_a_queue_that_closes_refuses_for_now(queue, delivery, outcomes):
    await queue.drain()

    queue.deliver(*delivery({})[:3])

    assert outcomes[0].temporary


async def test_giving_up_the_wait_does_not_take_the_message_back(queue, delivery):
    session, message, _, _ = delivery({})
    waiting = asyncio.create_task(queue.submit(session, message))
    await asyncio.sleep(0)
    waiting.cancel()
    task = asyncio.create_task(queue.run())

    await queue.drain()

    task.cancel()
    assert queue.batches == [1]


async def test_a_batch_out_of_more_than_a_mebibyte_makes_room_for_as_many_messages(clock, delivery, outcomes):
    taken, go_on = [], asyncio.Event()

    async def process(batch):
        taken.append(len(batch))
        for each in batch:
            each[2](Accepted(stored=1))
        await go_on.wait()

    receiver = Receiver(Limits(queue_messages=100_000, queue_bytes=4 << 20), clock, process, Refusals(lambda *_: None))

    def filled():
        """How many messages fit in now."""
        before = receiver.waiting
        while not receiver.refused_full:
            receiver.deliver(*delivery(b" " * 1000)[:3])
        receiver.refused_full = 0
        return receiver.waiting - before

    filled()
    task = asyncio.create_task(receiver.run())
    while not taken:
        await asyncio.sleep(0)
    fitted = filled()
    go_on.set()
    await receiver.drain()
    task.cancel()

    assert taken[0] > 1000
    assert fitted == taken[0]


@pytest.fixture
async def lanes(clock):
    """A receiver whose batches of messages other than readings wait until ``go_on`` is set."""
    go_on, handled = asyncio.Event(), []

    async def process(batch):
        if batch[0][1].type is not TELEMETRY:
            await go_on.wait()
        for session, message, done, _ in batch:
            handled.append((session.identity, message.payload))
            done(Accepted(stored=1))

    receiver = Receiver(Limits(), clock, process, Refusals(lambda *_: None))
    receiver.handled, receiver.go_on = handled, go_on
    task = asyncio.create_task(receiver.run())
    yield receiver
    task.cancel()


async def test_readings_do_not_wait_for_other_messages(lanes, delivery, outcomes):
    lanes.deliver(*delivery({"state": "online"}, row=STATUS)[:3])
    await asyncio.sleep(0)

    lanes.deliver(*delivery({"heat": 1}, "e")[:3])
    while not outcomes:
        await asyncio.sleep(0)

    assert [identity for identity, _ in lanes.handled] == ["e"]
    lanes.go_on.set()
    await lanes.drain()
    assert [identity for identity, _ in lanes.handled] == ["e", "d"]


async def test_other_messages_of_a_sender_are_never_in_two_batches_at_a_time_and_stay_in_order(lanes, delivery):
    for number in range(3):
        lanes.deliver(*delivery({"number": number}, row=STATUS)[:3])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    waiting = lanes.waiting

    lanes.go_on.set()
    await lanes.drain()

    assert waiting == 2
    assert [payload for _, payload in lanes.handled] == [b'{"number":%d}' % number for number in range(3)]


async def test_the_queue_is_empty_only_once_what_is_under_way_has_its_outcome(lanes, delivery):
    lanes.deliver(*delivery({"state": "online"}, row=STATUS)[:3])
    draining = asyncio.create_task(lanes.drain())
    for _ in range(5):
        await asyncio.sleep(0)

    assert (lanes.waiting, draining.done()) == (0, False)
    lanes.go_on.set()
    await draining
