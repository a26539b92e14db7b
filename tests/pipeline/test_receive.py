"""Receive: a bounded queue that says when to stop, and one outcome a message."""

import asyncio

import pytest

from fleetcore.interfaces.provider import Limits
from fleetcore.model.message import Accepted
from fleetcore.pipeline.receive import Receiver
from fleetcore.pipeline.refusals import Refusals

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
