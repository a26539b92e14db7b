"""Threads with an owner: fleetcore's threads end before the interpreter shuts down.

A daemon thread that runs Python after that is unwound at an arbitrary place; inside a C++ extension (such as
``numpy.unique``) this aborts the process: "terminate called without an active exception". So at exit each owner tells
its threads to end, and the exit waits for each thread for its time limit.

A thread that runs a plugin's code may not end at all. The exit then names it on stderr, with its place, and continues
without it in a fork, which has only the main thread, while this process waits for the fork's status and ends with it.
So the script's status, its open files and its other exit handlers are unaffected.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary, WeakMethod

#: Our threads only finish their current work; still, the exit has a limit.
EXIT_S = 10.0
#: Nothing uses the result of a plugin's thread at exit.
PLUGIN_EXIT_S = 5.0
#: The limit for the rest of the exit in a fork: other exit handlers, closing files.
_REST_S = 10.0
_POLL_S = 0.01

Stop = Callable[[], threading.Thread | None]

_running: WeakKeyDictionary[threading.Thread, float] = WeakKeyDictionary()
_stops: list[WeakMethod[Stop]] = []
_SWEEP = 64
_sweep_at = _SWEEP
# A re-entrant lock: a garbage collection inside a locked section may start or stop a thread.
_lock = threading.RLock()


def start(thread: threading.Thread, exit_s: float | None = None) -> None:
    """Starts a daemon thread that the exit waits for, for at most ``exit_s``. Its name tells its owner."""
    with _lock:
        _running[thread] = EXIT_S if exit_s is None else exit_s
    thread.start()


def adopt(exit_s: float | None = None) -> None:
    """Makes the exit wait for the current thread, which a library started."""
    with _lock:
        _running[threading.current_thread()] = EXIT_S if exit_s is None else exit_s


def stop_at_exit(stop: Stop) -> None:
    """Registers a bound method to be called at exit if its object is alive: it tells threads to end, without waiting.

    They are called in the order of registration. The exit waits for a thread that a method returns before it calls the
    next: a user of a store ends before the store.
    """
    global _sweep_at  # noqa: PLW0603 - a process has one exit
    with _lock:
        if len(_stops) >= _sweep_at:  # rarely, each time the list has doubled: a simulator has thousands of clients
            _stops[:] = [each for each in _stops if each() is not None]
            _sweep_at = max(_SWEEP, 2 * len(_stops))
        _stops.append(WeakMethod(stop))


class Deadline:
    """Ends the process with status 1 and a line on stderr, this long after :meth:`begin`, even if it hangs.

    Its thread exists from the start, so that ``begin`` may be called in a signal handler.
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds, self._what = seconds, what
        self._begun = threading.Lock()
        self._begun.acquire()
        # The exit does not wait for this thread: it sleeps in C until the process has gone, or ends it.
        threading.Thread(target=self._run, name="fleetcore deadline", daemon=True).start()

    def begin(self) -> None:
        """Starts the time; call it once."""
        self._begun.release()

    def _run(self) -> None:
        self._begun.acquire()
        time.sleep(self._seconds)
        others = [each for each in threading.enumerate() if each is not threading.current_thread()]
        _say(f"{self._what} took longer than {self._seconds:g} s and is cut off; still running: {_places(others)}")
        os._exit(1)


@atexit.register
def _end() -> None:
    """Takes at most twice the longest limit of a thread: users of other threads first, then all."""
    begun = time.monotonic()
    try:
        _tell(begun)
        with _lock:
            running = sorted(_running.items(), key=lambda item: item[1])
        start = time.monotonic()
        for thread, exit_s in running:
            thread.join(max(0.0, start + exit_s - time.monotonic()))
    except KeyboardInterrupt:
        _say("interrupted while waiting for threads to end")
    with _lock:
        left = [thread for thread in _running if thread.is_alive()]
    if left:
        waited = time.monotonic() - begun
        _say(
            f"the process ends without waiting any longer for threads that still run after {waited:.1f} s: "
            f"{_places(left)}"
        )
        _go_on_alone()


def _tell(begun: float) -> None:
    with _lock:
        stops = list(_stops)
    for each in stops:
        stop = each()
        thread = None if stop is None else stop()
        if thread is not None:
            thread.join(max(0.0, begun + _running.get(thread, EXIT_S) - time.monotonic()))


def _go_on_alone() -> None:
    """Returns in a process without other threads; the calling process ends with its status."""
    _flush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # leaving other threads behind is the purpose
            child = os.fork()
    except (AttributeError, OSError, RuntimeError):  # no fork on this system, or not at exit in this Python release
        os._exit(1)
    if child == 0:
        _skip_destructors()
        return
    until = time.monotonic() + _REST_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            _say(f"the exit handlers took longer than {_REST_S:g} s and are cut off")
            os._exit(1)
        time.sleep(_POLL_S)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGINT:  # as the interpreter does after Ctrl-C, so that a shell sees the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(max(code, 0) or int(code < 0))


def _skip_destructors() -> None:
    """Ends this process right after the interpreter: destructors of C libraries would join threads that a fork lacks.

    An example is libuv's thread pool. Exit handlers run last in, first out: the C library's streams are flushed, then
    the process ends.
    """
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # on_exit exists only in glibc: elsewhere the destructors run
        on_exit, flush, end = libc.on_exit, libc.fcloseall, libc._exit
        on_exit(end, None)
        on_exit(flush, None)


def place_of(thread: threading.Thread) -> str:
    """Where a thread is now, ``FILE:LINE in FUNCTION``; empty where it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _places(threads: Iterable[threading.Thread]) -> str:
    return ", ".join(f"{thread.name} ({place})" if (place := place_of(thread)) else thread.name for thread in threads)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is closed, or there is none
        sys.stderr.write(f"fleetcore: {text}\n")
        sys.stderr.flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _forget() -> None:
    """Resets a fork: it has none of its parent's threads, so a lock that one of them held is never released here."""
    global _lock  # noqa: PLW0603 - the one of the parent may be held for ever
    _lock = threading.RLock()
    _running.clear()
    _stops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
