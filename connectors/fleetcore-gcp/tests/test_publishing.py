"""One request of a key is under way, and no key gets more bytes a second than Pub/Sub takes."""

import asyncio
from types import SimpleNamespace

import pytest
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.failures import CallFailed
from fleetcore_gcp.publishing import Publisher, message

from fleetcore.testing.clock import MovableClock


class Clients:
    """Answers when it is told to."""

    def __init__(self):
        self.begun, self.answer = [], asyncio.Event()

    async def publishing(self, permission, method, request, *, pace, units):
        self.begun.append((request.messages[0].ordering_key, units))
        await self.answer.wait()
        return SimpleNamespace(message_ids=["1"] * len(request.messages))


@pytest.fixture
def clients():
    return Clients()


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
def publisher(clients, clock):
    return Publisher(clients, GcpConfig(project="plant-project", emulator="127.0.0.1:1"), None, clock)


def publish(publisher, key, size=100):
    return asyncio.create_task(publisher.publish("state", key, [message(b"x", key, {})], size))


async def test_the_next_request_of_a_key_waits_for_the_answer_to_the_last_one(publisher, clients, clock):
    tasks = [publish(publisher, key) for key in ("a", "a", "b")]
    await clock.advance(0)
    before = list(clients.begun)
    clients.answer.set()
    await asyncio.gather(*tasks)

    assert before == [("a", 1), ("b", 1)]
    assert clients.begun[2:] == [("a", 1)]
    assert publisher._locks == {}


async def test_a_key_that_has_used_up_its_second_waits_and_no_other_does(publisher, clients, clock):
    clients.answer.set()
    await publish(publisher, "a", 2_500_000)
    tasks = [publish(publisher, "a"), publish(publisher, "b")]
    await clock.advance(1.4)
    early = [task.done() for task in tasks]
    await clock.advance(0.2)

    assert early == [False, True]
    assert tasks[0].done()
    assert clients.begun[0] == ("a", 2500), "quotas count kilobytes"


async def test_an_answer_without_an_id_for_each_message_is_a_failure(publisher, clients):
    async def cut(*_, **__):
        return SimpleNamespace(message_ids=[])

    clients.publishing = cut
    with pytest.raises(CallFailed) as failure:
        await publish(publisher, "a")

    assert failure.value.lost
