"""Kills a process with SIGKILL at a chosen moment, and returns what it acknowledged: the test of *committed is kept*.

    def write(child):
        with open_mine(path) as mine:
            for number in itertools.count():
                mine.put(number)
                child.acknowledge(str(number))

    acknowledged = killed(write, after=20)

    with open_mine(path) as mine:
        assert set(acknowledged) <= set(mine.all())

Data that a killed process wrote to the kernel is kept, data in its own memory is lost. So this finds a store that
answers before it writes. It does not find one that writes without syncing: only a power failure does.
"""

import asyncio
import inspect
import json
import os
import select
import signal
import subprocess
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

from attrs import define, field

from fleetcore.testing.patience import PATIENCE_S

_ACKNOWLEDGED, _POINT, _FAILED = "acknowledged", "point", "failed"


class Child:
    """The connection from the work in the child process to the test."""

    def __init__(self, pipe: int, stop_at: str | None) -> None:
        self._pipe, self._stop_at = pipe, stop_at

    def acknowledge(self, what: str) -> None:
        """Tells the test that ``what`` is durable; returns once the test can read it."""
        self._say(_ACKNOWLEDGED, what)

    def point(self, name: str) -> None:
        """Names this place in the work. If the test kills ``at`` it, the work stops here."""
        self._say(_POINT, name)
        while name == self._stop_at:
            signal.pause()

    def _say(self, kind: str, text: str) -> None:
        line = json.dumps([kind, text]).encode() + b"\n"
        while line:
            line = line[os.write(self._pipe, line) :]


Work = Callable[[Child], object] | Callable[[Child], Awaitable[object]]


def killed(
    work: Work | Sequence[str | Path],
    *,
    after: int | Callable[[Sequence[str]], bool] | None = None,
    at: str | None = None,
    timeout_s: float = PATIENCE_S,
) -> tuple[str, ...]:
    """Runs ``work`` in a child process, kills it with SIGKILL and returns everything that it acknowledged.

    Args:
        work: a function or coroutine function, run in a fork of this process: it has this process's memory, but not its
            threads. Or the words of a command; each line of its standard output is an acknowledgement.
        after: kill after this many acknowledgements, or once this function returns true for those so far; the work
            continues meanwhile, so it is killed in the middle of the next step.
        at: kill at the point of this name; for a command, after this line.
        timeout_s: how long to wait for that moment.

    Raises:
        AssertionError: the work ended or failed before the moment, with its traceback; or the moment did not come.
    """
    if (after is None) == (at is None):
        raise TypeError("killed() takes exactly one of after and at")
    if callable(work):
        pid, pipe = _fork(work, at)
        process = None
    else:
        process = subprocess.Popen([str(word) for word in work], stdout=subprocess.PIPE)  # noqa: S603 - a test's own words
        assert process.stdout is not None
        pid, pipe = process.pid, process.stdout.fileno()
    heard = _Heard(after=after, at=at, plain=process is not None)
    try:
        came = _listen(pipe, heard, timeout_s)
    finally:
        os.kill(pid, signal.SIGKILL)
        status = process.wait() if process is not None else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # Not to the end of the pipe: a process started by the child may hold it open.
        os.set_blocking(pipe, False)
        _read_rest(pipe, heard)
        if process is None:
            os.close(pipe)
        elif process.stdout is not None:
            process.stdout.close()
    if not came:
        raise AssertionError(_why(heard, status, timeout_s))
    return tuple(heard.acknowledged)


@define(kw_only=True)
class _Heard:
    """The child's messages so far."""

    after: int | Callable[[Sequence[str]], bool] | None
    at: str | None
    plain: bool
    acknowledged: list[str] = field(factory=list)
    failure: str = ""
    is_at_point: bool = False
    ended: bool = False
    _rest: bytes = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            kind, text = (_ACKNOWLEDGED, line.decode(errors="replace")) if self.plain else json.loads(line)
            if kind == _FAILED:
                self.failure = text
            elif kind == _ACKNOWLEDGED:
                self.acknowledged.append(text)
            self.is_at_point |= text == self.at and (self.plain or kind == _POINT)

    @property
    def is_time(self) -> bool:
        if self.after is None:
            return self.is_at_point
        return self.after(self.acknowledged) if callable(self.after) else len(self.acknowledged) >= self.after


def _fork(work: Work, at: str | None) -> tuple[int, int]:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Since 3.12 Python warns of a fork beside threads: the child starts none of them, and opens its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _run(work, Child(writing, at))
    os.close(writing)
    return pid, reading


def _run(work: Work, child: Child) -> NoReturn:
    """In the child: never returns into the forked test."""
    status = 1
    try:
        done = work(child)
        if inspect.isawaitable(done):
            asyncio.run(_awaited(done))
        status = 0
    except BaseException:  # noqa: BLE001 - told to the test, whatever it is
        child._say(_FAILED, traceback.format_exc())
    finally:
        os._exit(status)


async def _awaited(work: Awaitable[object]) -> None:
    await work


def _listen(pipe: int, heard: _Heard, timeout_s: float) -> bool:
    """Whether the moment came before the child ended or the time was over."""
    end_s = time.monotonic() + timeout_s
    while not heard.is_time:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end_s - time.monotonic()))
        if not ready:
            return False
        data = os.read(pipe, 65536)
        if not data:
            heard.ended = True
            return False
        heard.take(data)
    return True


def _read_rest(pipe: int, heard: _Heard) -> None:
    try:
        while data := os.read(pipe, 65536):
            heard.take(data)
    except BlockingIOError:
        return


def _why(heard: _Heard, status: int, timeout_s: float) -> str:
    wanted = f"the point {heard.at!r}" if heard.after is None else f"after={heard.after!r}"
    said = f"{len(heard.acknowledged)} acknowledgements, the last {heard.acknowledged[-1:]}"
    if heard.ended:
        return f"The child ended with {status} before {wanted}; {said}\n{heard.failure}"
    return f"{wanted} did not come within {timeout_s:g} s; {said}"


__all__ = ["Child", "killed"]
