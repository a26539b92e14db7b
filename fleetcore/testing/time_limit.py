"""A time limit for tests: a hang ends with the test's name and the place where it hangs.

The limit works wherever the test hangs: in a coroutine that never suspends, in one that waits forever, or in a lock. An
alarm of the operating system interrupts the main thread and raises there. In another thread, or on a system without
such alarms, a watching thread makes the interpreter raise at the next line of Python; code that hangs in C is not
ended.
"""

import asyncio
import contextlib
import ctypes
import io
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds between two alarms, in case the first one was caught or ended a task that is not awaited.
_AGAIN_S = 5.0
_FRAMES = 12
#: What tests wait for at the moment, see :func:`waiting_for`.
_waiting: list[Callable[[], object]] = []


class TimeLimitExceeded(BaseException):
    """A test took longer than its limit.

    Not an ``Exception``: code that retries on every error, such as a reconnecting client, must not swallow it.
    """


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raises :class:`TimeLimitExceeded` in the block after ``seconds``, and again every five seconds.

    A limit that is already set on the process, such as pytest-timeout's, continues afterwards; one that ends earlier
    stays active.
    """
    has_alarm = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    yield from (_by_alarm if has_alarm else _by_thread)(seconds, what)


@contextmanager
def waiting_for(tell: Callable[[], object]) -> Iterator[None]:
    """During the block: if it does not end in time, the message contains the result of ``tell()``.

    For values, which the stack does not show: the actual state, in place of the expected one.
    """
    _waiting.append(tell)
    try:
        yield
    finally:
        _waiting.remove(tell)


def _by_alarm(seconds: float, what: str) -> Iterator[None]:
    def alarmed(_number: int, frame: FrameType | None) -> None:
        raise TimeLimitExceeded(_message(seconds, what, frame))

    outer_s, outer_again_s = signal.getitimer(signal.ITIMER_REAL)
    if 0 < outer_s <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, alarmed)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer_s:
            signal.setitimer(signal.ITIMER_REAL, max(outer_s - (seconds - left_s), 0.001), outer_again_s)


def _by_thread(seconds: float, what: str) -> Iterator[None]:
    thread, over = threading.get_ident(), threading.Event()

    def watch() -> None:
        wait_s = seconds
        while not over.wait(wait_s):
            raised = type(
                "TimeLimitExceeded", (TimeLimitExceeded,), {"__str__": lambda _self: f"{what} took over {seconds:g} s"}
            )
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(raised))
            wait_s = _AGAIN_S

    watcher = threading.Thread(target=watch, name=f"time limit of {what}", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _message(seconds: float, what: str, frame: FrameType | None) -> str:
    """What took too long, the line that ran, and where each other task of the loop waits."""
    out = io.StringIO()
    out.write(f"{what} took over {seconds:g} s.")
    for tell in _waiting:
        out.write(f" It waited for {tell()}.")
    out.write(" It was at:\n")
    out.writelines(traceback.format_stack(frame, _FRAMES))
    with contextlib.suppress(RuntimeError):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            out.write("\n")
            task.print_stack(limit=_FRAMES, file=out)
    return out.getvalue()


__all__ = ["TimeLimitExceeded", "time_limit", "waiting_for"]
