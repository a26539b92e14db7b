"""A blocking fleet where its process does what processes do: interrupts, forks, copies, and calls after the end."""

import asyncio
import copy
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fleetcore import IoTFleetManager
from fleetcore.errors import Refused
from fleetcore.testing.patience import PATIENCE_S

FORKED = """
import os, signal
from fleetcore import IoTFleetManager
from fleetcore.errors import Refused
manager = IoTFleetManager.sync()
manager.register_device("a", "sensor")
child = os.fork()
if child == 0:
    signal.alarm(10)
    for ask in (lambda: manager.get_device("a"), lambda: list(manager.iter_devices())):
        try:
            ask()
        except Refused as error:
            assert "fork" in error.message, error
        else:
            os._exit(1)
    manager.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert manager.get_device("a").id == "a"
manager.close()
"""


@pytest.fixture
def manager():
    manager = IoTFleetManager.sync()
    manager.register_device("a", "sensor")
    yield manager
    manager.close()


@pytest.fixture
def heeding():
    """An interrupt is heeded also where the shell has this run ignore it, in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding")
def test_an_interrupt_ends_the_call_too(manager):
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        manager.send_command("a", "blink", wait_s=1000)
    until = time.monotonic() + PATIENCE_S
    while any("_value" in repr(task.get_coro()) for task in asyncio.all_tasks(manager._loop)):
        assert time.monotonic() < until
        time.sleep(0.02)

    assert manager.get_device("a").id == "a"


@pytest.mark.filterwarnings("error")
def test_a_call_after_the_end_is_refused(manager):
    manager.close()

    for ask in (
        lambda: manager.get_device("a"),
        lambda: list(manager.iter_devices()),
        lambda: next(manager.watch_events()),
    ):
        with pytest.raises(Refused, match="closed"):
            ask()
    manager.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_is_refused_and_hangs_in_nothing():
    done = subprocess.run(
        [sys.executable, "-c", FORKED], check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_copy_is_no_endless_recursion(manager):
    assert copy.copy(manager).get_device("a").id == "a"
    with pytest.raises(AttributeError):
        type(manager).__new__(type(manager)).devices  # noqa: B018
