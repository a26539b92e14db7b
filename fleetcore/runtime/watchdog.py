"""A watchdog for the event loop: blocking plugin code stops everything, and nothing else can report it.

It runs in a thread. It cannot end the code, only name it: the running task and its current line. SIGTERM ends the
process even then, see :class:`fleetcore.threads.Deadline`.
"""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable

from fleetcore import threads

_log = logging.getLogger(__name__)

#: The interval between two checks, and what counts as blocked. No code of fleetcore holds the loop for more than
#: milliseconds.
_EVERY_S, BLOCKED_S = 5.0, 5.0


class Watchdog:
    """Watches the running loop from :meth:`start` to :meth:`stop`.

    It uses real time: a test's clock does not advance while the loop hangs.
    """

    def __init__(self, *, every_s: float = _EVERY_S, blocked_s: float = BLOCKED_S) -> None:
        self._every_s, self._blocked_s = every_s, blocked_s
        self._stopped = threading.Event()

    def start(self) -> None:
        """Starts to watch the loop and the calling thread."""
        watched = asyncio.get_running_loop(), threading.current_thread()
        threads.stop_at_exit(self.stop)
        thread = threading.Thread(target=_watch, args=(*watched, self._stopped, self._every_s, self._blocked_s))
        thread.name, thread.daemon = "fleetcore watchdog", True
        # Dropping it without stopping also ends it: the thread only refers to the event.
        weakref.finalize(self, self._stopped.set)
        threads.start(thread)

    def stop(self) -> None:
        """Ends it; idempotent."""
        self._stopped.set()


def _watch(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    stopped: threading.Event,
    every_s: float,
    blocked_s: float,
) -> None:
    while not stopped.wait(every_s):
        if not _beats(loop, blocked_s, stopped):
            task = asyncio.current_task(loop)
            doing = "a callback" if task is None else f"the task {task.get_name()!r}"
            place = threads.place_of(thread)
            _log.error("The event loop has been blocked for %g s by %s, at %s", blocked_s, doing, place)
            while not _beats(loop, every_s, stopped):
                pass
            if not stopped.is_set():
                _log.warning("The event loop runs again")


def _beats(loop: asyncio.AbstractEventLoop, within_s: float, stopped: threading.Event) -> bool:
    """Whether the loop runs a callback in time; also True if there is nothing to watch."""
    if not loop.is_running():  # it is between two runs, or has ended
        return True
    beat = threading.Event()
    set_beat: Callable[[], None] = beat.set
    try:
        loop.call_soon_threadsafe(set_beat)
    except RuntimeError:  # it is closed
        stopped.set()
        return True
    return beat.wait(within_s) or stopped.is_set()
