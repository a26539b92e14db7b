"""A process is killed at the chosen moment, and all that it acknowledged is told."""

import asyncio
import itertools
import sys
import threading

import pytest

from fleetcore.testing import killed


def test_it_is_killed_after_so_many_acknowledgements(tmp_path):
    def work(child):
        for number in itertools.count():
            (tmp_path / "last").write_text(str(number))
            child.acknowledge(str(number))

    acknowledged = killed(work, after=20)

    assert len(acknowledged) >= 20
    assert list(acknowledged) == [str(number) for number in range(len(acknowledged))]
    assert len(acknowledged) - 1 <= int((tmp_path / "last").read_text() or 10**9)


def test_it_is_killed_at_a_point_and_goes_no_further(tmp_path):
    def work(child):
        child.acknowledge("before")
        child.point("elsewhere")
        child.point("here")
        child.acknowledge("after")
        (tmp_path / "further").touch()

    assert killed(work, at="here") == ("before",)
    assert not (tmp_path / "further").exists()


async def test_a_coroutine_runs_in_a_loop_of_its_own_also_beside_a_running_one():
    async def work(child):
        for number in itertools.count():
            await asyncio.sleep(0)
            child.acknowledge(str(number))

    assert killed(work, after=3)[:3] == ("0", "1", "2")


def test_a_fork_beside_threads_is_fine():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert killed(lambda child: [child.acknowledge("a"), child.point("p")], at="p") == ("a",)
    finally:
        over.set()
        thread.join()


def test_the_lines_of_a_command_are_its_acknowledgements():
    script = "import itertools\nfor n in itertools.count(): print(n, flush=True)"

    lines = killed([sys.executable, "-c", script], after=lambda lines: bool(lines) and int(lines[-1]) >= 50)

    assert lines[:51] == tuple(map(str, range(51)))


def test_a_command_is_killed_after_a_line():
    script = "import time\nprint('one\\nready', flush=True)\ntime.sleep(1000)"

    assert killed([sys.executable, "-c", script], at="ready") == ("one", "ready")


def test_work_that_fails_before_the_moment_is_told_with_its_traceback():
    def work(child):
        child.acknowledge("one")
        raise ValueError("the store is broken")

    with pytest.raises(
        AssertionError, match=r"(?s)before after=2; 1 acknowledgements.*ValueError: the store is broken"
    ):
        killed(work, after=2)


def test_work_that_ends_before_the_moment_is_told():
    with pytest.raises(AssertionError, match="ended with 0 before the point 'never'"):
        killed(lambda child: child.acknowledge("one"), at="never")


def test_a_moment_that_does_not_come_is_told_and_the_child_is_gone():
    with pytest.raises(AssertionError, match=r"the point 'p' did not come within 0.1 s; \d ack"):
        killed(lambda child: [child.acknowledge("one"), threading.Event().wait()], at="p", timeout_s=0.1)


def test_a_moment_has_to_be_chosen():
    with pytest.raises(TypeError, match="exactly one"):
        killed(lambda child: None)
