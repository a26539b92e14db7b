"""A test of a contract ends in time, wherever it hangs, and says where."""

import asyncio
import signal
import threading
import time

import pytest

from fleetcore.testing.time_limit import TimeLimitExceeded, time_limit, waiting_for


def spin():
    while True:
        pass


def test_a_busy_loop_is_ended_with_the_line_that_ran():
    with (
        pytest.raises(TimeLimitExceeded, match=r"(?s)the test took over 0.05 s.*in spin"),
        time_limit(0.05, "the test"),
    ):
        spin()


def test_a_coroutine_that_never_suspends_is_ended():
    async def commit():
        spin()

    with pytest.raises(TimeLimitExceeded, match=r"(?s)in commit.*in spin"), time_limit(0.05, "the test"):
        asyncio.run(commit())


def test_a_coroutine_that_waits_for_what_never_comes_is_ended_with_the_place_where_it_waits():
    async def never():
        await asyncio.Event().wait()

    with pytest.raises(TimeLimitExceeded, match=r"(?s)await asyncio.Event\(\).wait\(\)"), time_limit(0.05, "the test"):
        asyncio.run(never())


def test_a_lock_that_nobody_gives_back_is_ended():
    lock = threading.Lock()

    with lock, pytest.raises(TimeLimitExceeded), time_limit(0.05, "the test"):
        lock.acquire()


def test_what_retries_on_every_exception_is_ended_too():
    def stubborn():
        while True:
            try:
                time.sleep(0.001)
            except Exception:
                continue

    with pytest.raises(TimeLimitExceeded), time_limit(0.05, "the test"):
        stubborn()


def test_a_block_in_time_leaves_no_alarm_behind():
    before = signal.getsignal(signal.SIGALRM)

    with time_limit(60, "the test"):
        pass

    assert signal.getsignal(signal.SIGALRM) is before


def test_an_outer_bound_goes_on_afterwards_and_an_earlier_one_is_left_alone():
    with time_limit(100, "outer"):
        with time_limit(50, "inner"):
            inside_s, _ = signal.getitimer(signal.ITIMER_REAL)
        after_s, _ = signal.getitimer(signal.ITIMER_REAL)
        with time_limit(500, "inner"):
            left_s, _ = signal.getitimer(signal.ITIMER_REAL)

    assert inside_s <= 50 < after_s <= 100
    assert 50 < left_s <= 100


def test_a_busy_loop_in_another_thread_is_ended():
    ended = []

    def run():
        try:
            with time_limit(0.05, "the test"):
                spin()
        except TimeLimitExceeded as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)

    assert ended == ["the test took over 0.05 s"]


def test_it_says_what_was_waited_for_and_what_there_was_then():
    came = []

    async def wait():
        with waiting_for(lambda: f"3 messages; {came} came"):
            came.append("one")
            await asyncio.Event().wait()

    with (
        pytest.raises(TimeLimitExceeded, match=r"It waited for 3 messages; \['one'\] came"),
        time_limit(0.05, "the test"),
    ):
        asyncio.run(wait())

    with pytest.raises(TimeLimitExceeded) as after, time_limit(0.05, "the test"):
        spin()
    assert "It waited" not in str(after.value)
