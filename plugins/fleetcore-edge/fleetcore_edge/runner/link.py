"""One worker process, and the requests that it has not answered yet."""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from fleetcore.interfaces.waits import end_process
from fleetcore_edge.agent.starting import isolated
from fleetcore_edge.runner import frames
from fleetcore_edge.runner.answers import Answer, Incoming
from fleetcore_edge.runner.records import RunnerSettings

#: How often an overdue answer is looked for.
_LOOK_S = 0.25
#: For how long a worker may take to end by itself.
_LEAVE_S = 1.0
_READ_BYTES = 1 << 18
#: More than a batch of 10,000 readings; the system may give less.
_SOCKET_BYTES = 1 << 20


class LinkLost(Exception):
    """The worker is gone: why, and whether it was busy with the request that asked (`running`)."""

    def __init__(self, reason: str, *, running: bool, overdue: bool) -> None:
        super().__init__(reason)
        self.reason, self.running, self.overdue = reason, running, overdue


@define
class _Request:
    answer: "asyncio.Future[Answer]"
    bound_s: float


class Link:
    """A worker, alive until `lost` is set.

    Args:
        on_lost: is called once, at the moment in which it is known to be gone, before any request fails.

    Attributes:
        pid: of the worker.
        lost: is set when it is gone.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, ours: socket.socket, on_lost: Callable[["Link"], None]
    ) -> None:
        self._process, self._socket, self._on_lost = process, ours, on_lost
        self._loop = asyncio.get_running_loop()
        self._requests: deque[_Request] = deque()
        #: When the first of them became the first.
        self._since = 0.0
        self._unsent: deque[memoryview] = deque()
        self._incoming = Incoming()
        #: One place for all of them: a fresh one of this size would be mapped and unmapped for each answer.
        self._read = memoryview(bytearray(_READ_BYTES))
        self._overdue = False
        self.pid = process.pid
        self.lost = asyncio.Event()
        self._loop.add_reader(ours, self._readable)
        self._watch = self._loop.call_later(_LOOK_S, self._look)

    @classmethod
    async def open(cls, settings: RunnerSettings, on_lost: Callable[["Link"], None]) -> "Link":
        """Starts a worker."""
        ours, theirs = socket.socketpair()
        try:
            for each in (ours, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            ours.setblocking(False)
            interpreter, environment = isolated()
            process = await asyncio.create_subprocess_exec(
                *interpreter, "-m", "fleetcore_edge.runner.worker", str(theirs.fileno()),
                str(settings.memory_mib + settings.own_memory_mib), str(settings.nice),
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                env=environment, pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours, on_lost)

    async def close(self) -> None:
        """Ends the worker; requests that are open fail with LinkLost."""
        self._lose("the runner is closed")
        # The end of its socket ends it, unless it is busy. Killing one that ends just now would take its end from
        # asyncio, which then warns of an unknown child.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._process.wait()
        await end_process(self._process)

    def kill(self) -> None:
        """Kills the worker, as one that does not answer is killed."""
        if self._process.returncode is None:
            self._process.kill()

    async def ask(self, pieces: Sequence[Any], bound_s: float) -> Answer:
        """Sends a request and waits for its answer.

        A caller that is cancelled does not wait any more; the request is handled all the same.

        Args:
            bound_s: how long the worker may be busy with it, by the wall clock, before it is killed.

        Raises:
            LinkLost: the worker is gone.
        """
        if self.lost.is_set():
            raise LinkLost("it is gone", running=False, overdue=False)
        request = _Request(self._loop.create_future(), bound_s)
        if not self._requests:
            self._since = self._loop.time()
        self._requests.append(request)
        self._send(pieces)
        return await request.answer

    def _send(self, pieces: Sequence[Any]) -> None:
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.sendmsg(pieces)
            except BlockingIOError:
                pass
            except OSError:
                # Its end is read, too.
                return
        (length,) = frames.LENGTH.unpack_from(pieces[0])
        if sent == frames.LENGTH.size + length:
            return
        if not self._unsent:
            self._loop.add_writer(self._socket, self._writable)
        self._unsent.append(memoryview(b"".join(pieces))[sent:])

    def _writable(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                    return
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            count = self._socket.recv_into(self._read)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._lose("it has ended")
            return
        try:
            for answer in self._incoming.feed(self._read[:count]):
                request = self._requests.popleft()
                self._since = self._loop.time()
                if not request.answer.done():
                    request.answer.set_result(answer)
        except (ValueError, IndexError):
            self.kill()
            self._lose("it answered what is no answer")

    def _look(self) -> None:
        """Kills a worker that is overdue."""
        if self._requests and self._loop.time() - self._since > self._requests[0].bound_s:
            self._overdue = True
            self.kill()
        self._watch = self._loop.call_later(_LOOK_S, self._look)

    def _lose(self, reason: str) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        self._on_lost(self)
        self._watch.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        first = True
        while self._requests:
            request = self._requests.popleft()
            if not request.answer.done():
                request.answer.set_exception(LinkLost(reason, running=first, overdue=first and self._overdue))
            first = False
