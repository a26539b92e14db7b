"""Asking the core for its time: the best of some answers counts, and a connection made without a clock is made again."""

import asyncio

import pytest
from fleetcore_edge.clock.asking import CoreTime
from fleetcore_edge.clock.gateway_clock import GatewayClock

from fleetcore.errors import Unavailable
from fleetcore.model.message import Reply

DAY = 86_400_000


class Core:
    """A core whose answers take given times, ms there and back."""

    def __init__(self, machine, *trips, ahead_ms=0):
        self.machine, self.trips, self.ahead_ms = machine, list(trips), ahead_ms
        self.asked = 0

    async def request(self, _type, body):
        self.asked += 1
        there, back = self.trips.pop(0)
        self.machine.pass_(there)
        now = self.machine.true_ms + self.ahead_ms
        self.machine.pass_(back)
        return Reply(body={"client": body["client"], "received_ms": now, "sent_ms": now})


@pytest.fixture
def clock(tmp_path, machine):
    machine.set(60_000)
    made = GatewayClock(tmp_path, machine, floor_ms=machine.true_ms - DAY)
    made.begin(())
    return made


async def test_the_answer_is_as_exact_as_half_its_round_trip(clock, machine):
    await CoreTime(clock).greet(Core(machine, (100, 500)))

    assert clock.now_ms() - machine.true_ms == (100 - 500) // 2


async def test_a_connection_is_made_again_once_its_certificate_can_be_judged_and_only_then(clock, machine):
    core = CoreTime(clock)

    core.opening()
    assert not await core.greet(Core(machine, (10, 10)))
    core.opening()
    assert await core.greet(Core(machine, (10, 10)))


async def test_the_shortest_of_slow_round_trips_counts(clock, machine):
    core = Core(machine, (9_000, 1_000), (1_000, 1_000), (8_000, 0))

    await CoreTime(clock).greet(core)

    assert core.asked == 3
    assert clock.now_ms() == machine.true_ms


class Refuses:
    def __init__(self, answer):
        self.answer = answer

    async def request(self, _type, _body):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        Unavailable("lost"),
        Reply(error={"code": "not_ready", "detail": "The server does not know the time yet"}),
        Reply(body={}),
        Reply(body={"received_ms": "1", "sent_ms": 2.5}),
        Reply(body={"received_ms": True, "sent_ms": 10**30}),
    ],
)
async def test_a_core_that_does_not_tell_the_time_is_connected_to_all_the_same(clock, answer):
    core = CoreTime(clock)
    core.opening()

    assert await core.greet(Refuses(answer))
    assert core.refused
    assert not clock.is_known


async def test_it_is_asked_again_and_the_connection_made_again_when_it_tells(clock, machine):
    core, made_again = CoreTime(clock), asyncio.Event()
    client = Refuses(Unavailable("lost"))
    core.opening()
    await core.greet(client)
    client.request = Core(machine, *[(10, 10)] * 10).request
    clock.sleep = lambda _: asyncio.sleep(0)
    asking = asyncio.create_task(core.run(made_again.set))

    async with asyncio.timeout(5):
        await made_again.wait()
    asking.cancel()

    assert clock.is_known


async def test_a_clock_that_is_set_between_handshake_and_greeting_has_not_judged_the_certificate(clock, machine):
    core = CoreTime(clock)
    core.opening()
    machine.set(machine.true_ms)
    clock.look()

    assert not await core.greet(Core(machine, (10, 10)))
