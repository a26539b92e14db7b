"""The pace of a hub's calls: its rates are kept, and give way where it throttles."""

import asyncio

from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.waits import end_tasks
from fleetcore.testing.clock import MovableClock
from fleetcore.testing.patience import PATIENCE_S


async def taken(pace, clock, name, seconds):
    """How many calls of a class go out within some seconds, where there are always more to make."""
    count = 0

    async def calls():
        nonlocal count
        while True:
            await pace.take(name)
            count += 1

    task = asyncio.create_task(calls())
    for _ in range(seconds * 10):
        await clock.advance(0.1)
    await end_tasks(task)
    return count


async def test_a_class_goes_at_its_rate_after_a_seconds_worth_at_once():
    clock = MovableClock()
    assert 53 <= await taken(Pace({"control": 5.0}, clock), clock, "control", 10) <= 55


async def test_a_class_without_a_rate_is_not_held():
    pace = Pace({"control": 0.001}, MovableClock())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(1000):
            await pace.take("data")


async def test_a_class_that_is_throttled_waits_as_long_as_it_is_told_and_goes_at_half_its_rate():
    clock = MovableClock()
    pace = Pace({"control": 10.0, "data": 10.0}, clock)
    await taken(pace, clock, "control", 1)
    for _ in range(5):  # answers that were under way say the same
        pace.slow_down("control", retry_after_s=3.0)
    assert await taken(pace, clock, "control", 2) == 0
    assert pace.throttled == {"control": 5}

    await clock.advance(1.0)
    slow = await taken(pace, clock, "control", 2)
    assert 10 <= slow <= 22, (
        "half of its rate, of which a twentieth comes back each second, and a second's worth at once"
    )
    await clock.advance(20.0)
    assert 55 <= await taken(pace, clock, "control", 5) <= 60


async def test_what_waited_for_a_throttling_hub_comes_one_after_another():
    clock = MovableClock()
    pace = Pace({"control": 10.0}, clock)
    pace.slow_down("control", 30.0)
    waiting = [asyncio.create_task(pace.take("control")) for _ in range(300)]
    await clock.advance(29.9)
    assert not any(each.done() for each in waiting)
    await clock.advance(1.1)
    gone = sum(each.done() for each in waiting)
    await end_tasks(*waiting)

    assert 1 <= gone <= 12
