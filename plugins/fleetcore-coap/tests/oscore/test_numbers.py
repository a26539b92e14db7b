"""Sequence numbers of the server: no number comes twice, whatever was lost, and what waits for one gets one."""

import asyncio

import pytest
from fleetcore_coap.oscore.numbers import EPOCH_MS, NUMBERS, Numbers

from fleetcore.errors import Unavailable
from fleetcore.interfaces.state import PluginState
from fleetcore.testing import context
from fleetcore.testing.clock import MovableClock


class Store:
    """What is durable; ``broken`` refuses to keep anything."""

    def __init__(self):
        self.kept, self.broken = {}, False

    async def write(self, values):
        await asyncio.sleep(0)
        if self.broken:
            raise Unavailable("the disk is full", code="storage_full")
        self.kept = dict(values)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def clock():
    return MovableClock(EPOCH_MS + 1_000_000)


@pytest.fixture
def opened(store, clock):
    async def make(kept=None):
        lent = context("coap", clock=clock)
        object.__setattr__(lent, "state", PluginState(store.kept if kept is None else kept, store.write))
        numbers = Numbers(lent)
        await numbers.open()
        return numbers

    return make


def taken(numbers, count):
    found = []
    for _ in range(count):
        numbers.when_there_is_one(lambda: found.append(numbers.take()))
    return found


async def test_numbers_rise_and_begin_at_the_clock(opened):
    numbers = await opened()

    assert taken(numbers, 3) == [1000 * NUMBERS, 1000 * NUMBERS + 1, 1000 * NUMBERS + 2]


async def test_a_process_that_was_killed_at_once_again_and_again_uses_no_number_twice(opened):
    found = []
    for _ in range(50):  # in one second
        found += taken(await opened(), 5)

    assert len(set(found)) == 250
    assert found == sorted(found)


async def test_numbers_are_kept_as_used_before_the_first_is(opened, store):
    store.broken = True
    with pytest.raises(Unavailable):
        await opened()

    store.broken = False
    numbers = await opened()
    assert int.from_bytes(store.kept["oscore-reserved"], "big") * NUMBERS > taken(numbers, 1)[0]


async def test_a_store_that_is_restored_from_a_backup_begins_beyond_what_was_used_since(opened, store, clock):
    await opened()
    backup = dict(store.kept)
    used = []
    for _ in range(3):
        await clock.advance(1.0)  # a start takes no less
        used += taken(await opened(), 3)
    await clock.advance(1.0)
    after = taken(await opened(backup), 3)

    assert min(after) > max(used)


async def test_a_clock_that_was_set_back_brings_no_number_again(opened, clock):
    before = taken(await opened(), 3)
    clock._now_ms -= 500_000
    after = taken(await opened(), 3)

    assert min(after) > max(before)


async def test_what_finds_no_number_waits_for_more_and_is_served_in_its_turn(opened):
    numbers = await opened()
    found = taken(numbers, 5 * NUMBERS)
    before = len(found)
    await numbers.keep()

    assert before == NUMBERS
    assert len(found) == 5 * NUMBERS
    assert found == sorted(set(found))


async def test_more_than_a_thousand_a_second_on_the_average_wait_for_their_time(opened, clock):
    numbers = await opened()
    found = taken(numbers, 30 * NUMBERS)
    await numbers.keep()
    burst = len(found)
    for _ in range(14):
        await clock.advance(1.0)
        await numbers.keep()

    assert burst == 16 * NUMBERS
    assert len(set(found)) == len(found) == 30 * NUMBERS


async def test_a_store_in_trouble_stops_nothing_while_there_are_numbers(opened, store):
    numbers = await opened()
    store.broken = True
    found = taken(numbers, NUMBERS - 1)
    await numbers.keep()
    found += taken(numbers, 3)
    short = len(found)
    store.broken = False
    await numbers.keep()

    assert short == NUMBERS
    assert len(set(taken(numbers, 5)) | set(found)) == NUMBERS + 5


async def test_a_clock_beyond_the_numbers_is_told_and_keeps_nothing(opened, clock, store):
    clock._now_ms = EPOCH_MS + (1 << 30) * 1000
    with pytest.raises(Unavailable, match="2059"):
        await opened()

    assert store.kept == {}
