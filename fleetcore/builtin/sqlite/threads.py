"""The store's threads, and that all of them have ended before the interpreter takes itself apart.

A daemon thread that wants to run Python then is ended in the middle of whatever it does; within a C++ extension that
aborts the process. So at exit every store that is still open is told to end, and its threads are waited for.
"""

import atexit
import threading
import time
from collections.abc import Callable
from weakref import WeakMethod, WeakSet

#: A thread only finishes what it was given; a process that exits does not wait for ever all the same.
_WAIT_S = 10.0

_running: WeakSet[threading.Thread] = WeakSet()
_stops: list[WeakMethod[Callable[[], None]]] = []


def start(thread: threading.Thread) -> None:
    """Starts a thread that is waited for at exit."""
    _running.add(thread)
    thread.start()


def stop_at_exit(stop: Callable[[], None]) -> None:
    """Has a bound method called at exit, where its object still lives: it tells threads to end and does not wait."""
    _stops[:] = [one for one in _stops if one() is not None]
    _stops.append(WeakMethod(stop))


@atexit.register
def _end() -> None:
    for one in _stops:
        stop = one()
        if stop is not None:
            stop()
    until = time.monotonic() + _WAIT_S
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))
