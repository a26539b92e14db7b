"""uvicorn's connections with deadlines: for the head of a request, and for each piece of its body.

uvicorn itself only has a deadline between requests.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.listening.lateness import sweeps
from fleetcore.listening.limits import ListenerLimits
from fleetcore_api.problems import problem

_NO_HTTP = "This is not HTTP/1.1: its headers or the framing of its body are ambiguous"


class TimedConnections:
    """Makes the connections of one listener, and closes late ones."""

    def __init__(self, settings: uvicorn.Config, state: ServerState, limits: ListenerLimits, clock: Clock) -> None:
        self._settings, self._state, self._limits, self._clock = settings, state, limits, clock
        parser: Any = settings.http_protocol_class
        self._timed: Any = type(f"Timed{parser.__name__}", (_Timed, parser), {})

    def connection(self, lost: Callable[[], None]) -> asyncio.Protocol:
        """The protocol of a connection; it calls ``lost`` when it ends."""
        made: Any = self._timed(config=self._settings, server_state=self._state, app_state={})
        made.begin(self._limits, self._clock, lost)
        protocol: asyncio.Protocol = made
        return protocol

    async def sweep(self) -> None:
        """Runs until cancelled: closes late connections within a second."""
        async for now in sweeps(self._clock):
            for connection in tuple(self._state.connections):
                if isinstance(connection, _Timed | _TimedStream):
                    connection.judge(now)


class _Timed:
    """A mixin for uvicorn's protocol, of which it uses ``cycle``, ``transport`` and ``flow``."""

    cycle: Any
    transport: Any
    flow: Any
    ws_protocol_class: Any

    def begin(self, limits: ListenerLimits, clock: Clock, lost: Callable[[], None]) -> None:
        """Called before the connection is made."""
        self._limits, self._clock, self._lost = limits, clock, lost
        self._until_s, self._in_head = inf, False
        self.ws_protocol_class = partial(_TimedStream, limits, clock, lost)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]  # of the parser beside
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]  # of the parser beside
        if self._answering:
            self._in_head = False
            self._until_s = self._clock.monotonic_s() + self._limits.body_s if self.cycle.more_body else inf
        elif not self._in_head:
            self._expect_head()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)  # type: ignore[misc]  # of the parser beside
        self._lost()

    def judge(self, now_s: float) -> None:
        """Closes the connection if it is late because of its peer."""
        if now_s < self._until_s:
            return
        if self._answering and (self.flow.read_paused or not self.cycle.more_body):
            self._until_s = inf if not self.cycle.more_body else now_s + self._limits.body_s
        elif self._answering or self._in_head:
            self.transport.abort()
        else:
            self._until_s = inf  # it is idle: uvicorn ends that

    def send_400_response(self, msg: str) -> None:  # uvicorn's own
        """Answers invalid HTTP with a problem document; the connection closes after it."""
        del msg
        if not self._answering:
            answer = problem(Refused(_NO_HTTP, code="payload_unreadable", remedy="Send each header of a request once"))
            headers = {**answer.headers, "connection": "close", "content-length": str(len(answer.body))}
            lines = ["HTTP/1.1 400 Bad Request", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            self.transport.write("\r\n".join(lines).encode("latin-1") + answer.body)
        self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._in_head = True
        self._until_s = self._clock.monotonic_s() + self._limits.head_s


class _TimedStream(WebSocketsSansIOProtocol):
    """A WebSocket, after the upgrade of a request."""

    def __init__(
        self,
        limits: ListenerLimits,
        clock: Clock,
        lost: Callable[[], None],
        config: Any,
        server_state: Any,
        app_state: Any,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._limits, self._clock, self._lost = limits, clock, lost
        self._unread_s = inf

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_s = self._clock.monotonic_s()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_s = inf

    def judge(self, now_s: float) -> None:
        """Closes a stream whose client has read nothing for too long."""
        if now_s - self._unread_s >= self._limits.unread_s:
            self.transport.abort()
