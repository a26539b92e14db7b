"""One connection of a device: its sessions, its deadlines, and how it ends.

aiohttp's request handler reads and writes; this class adds sessions that live as long as the connection, deadlines for
header and body, and errors as problem documents (RFC 9457) instead of HTML.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from attrs import define, field

from fleetcore.interfaces.protocol import Session
from fleetcore.model.addresses import within
from fleetcore.model.message import Rejected
from fleetcore_http.app_state import AppState
from fleetcore_http.problems import problem

#: Sessions kept per connection. A device needs one; a proxy's connection has requests of many.
SESSIONS_PER_CONNECTION = 64


@define(eq=False)
class Poll:
    """A long poll under way, which a lost connection, a lost right or a drain ends at once."""

    session: Session
    scope: asyncio.Timeout
    ended: bool = field(default=False, init=False)

    def end(self) -> None:
        """Makes the wait return nothing now; idempotent."""
        if not self.ended:
            self.ended = True
            self.scope.reschedule(asyncio.get_running_loop().time())


class DeviceConnection(RequestHandler):
    """A connection; handles one request at a time, in order.

    Attributes:
        certificate: the peer's verified certificate, DER, or None.
        proxied: the peer is a trusted proxy; then the certificate is the proxy's and does not identify a device.
        sessions: by credential, in the order of last opening.
        deadline: by the listener's monotonic clock; the sweep aborts the connection after it.
    """

    __slots__ = (
        "_in_head",
        "_lost",
        "_poll",
        "busy",
        "certificate",
        "deadline",
        "proxied",
        "reading_body",
        "sessions",
        "state",
    )

    def __init__(
        self,
        state: AppState,
        manager: web.Server,
        lost: Callable[[], None],
        **options: Any,  # aiohttp's own keywords
    ) -> None:
        super().__init__(manager, **options)
        self._lost = lost
        self.state = state
        self.certificate: bytes | None = None
        self.proxied = False
        self.sessions: dict[str, Session] = {}
        self.deadline = inf
        self.busy = False
        self.reading_body = False
        self._in_head = False
        self._poll: Poll | None = None

    @property
    def peer(self) -> str:
        """``host:port`` of the other end, for people to read."""
        name = self.peername
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name or "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = self.peername
        self.proxied = isinstance(name, tuple) and within(name[0], self.state.proxies)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and not self.proxied:
            self.certificate = tls.getpeercert(True)
        # A peer that connects and sends nothing gets the time of a header section, not of an idle connection.
        self._in_head = True
        self.deadline = self.state.clock.monotonic_s() + self.state.deadlines.head_s

    def data_received(self, data: bytes) -> None:
        if data and not (self._in_head or self.busy):  # aiohttp also calls it without data, to continue parsing
            self._in_head = True
            self.deadline = self.state.clock.monotonic_s() + self.state.deadlines.head_s
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.deadline = inf
        self.end_poll()
        while self.sessions:
            session = self.sessions.popitem()[1]
            self.state.holders.leave(session.identity, self)
            session.close()
        self._lost()

    def begin(self) -> None:
        """The header section of a request is complete."""
        self.busy = True
        self._in_head = False
        self.deadline = inf

    def expect_body(self) -> None:
        """The rest of a body is awaited from now on."""
        self.reading_body = True
        self.deadline = self.state.clock.monotonic_s() + self.state.deadlines.body_s

    def got_body(self) -> None:
        """The body is complete, or no longer needed."""
        self.reading_body = False
        self.deadline = inf

    def expect_reading(self) -> None:
        """The peer must read what is sent within the idle time."""
        self.deadline = self.state.clock.monotonic_s() + self.state.deadlines.idle_s

    def end(self) -> None:
        """The request is answered; only writing remains."""
        self.busy = False
        self.expect_reading()

    def abort(self) -> None:
        """Closes the connection at once."""
        self.keep_alive(val=False)
        transport = self.transport
        if transport is not None:
            transport.abort()

    def adopt(self, key: str, session: Session) -> None:
        """Keeps ``session`` for the following requests with the same credential, until it or the connection ends."""
        if len(self.sessions) >= SESSIONS_PER_CONNECTION:
            oldest = self.sessions.pop(next(iter(self.sessions)))
            if not self._speaks_for(oldest.identity):
                self.state.holders.leave(oldest.identity, self)
            oldest.close()
        self.sessions[key] = session
        if not self.proxied:  # a proxy's connection does not belong to the device
            self.state.holders.enter(session.identity, self, self.abort)
        session.on_end(lambda code: self._session_ended(key, session, code))
        if self.transport is None:  # lost while the credential was being checked
            self.sessions.pop(key, None)
            self.state.holders.leave(session.identity, self)
            session.close()

    def _speaks_for(self, identity: str) -> bool:
        return any(session.identity == identity for session in self.sessions.values())

    def _session_ended(self, key: str, session: Session, code: str) -> None:
        if self.sessions.get(key) is session:
            del self.sessions[key]
            if not self._speaks_for(session.identity):
                self.state.holders.leave(session.identity, self)
        if code == "closed":  # by ourselves
            return
        if self._poll is not None and self._poll.session is session:
            self._poll.end()
        if (
            not self.proxied
        ):  # a proxy's connection has requests of other devices too: the next request is refused instead
            self.abort()

    async def poll(
        self, session: Session, waiting: Awaitable[Mapping[str, object] | None]
    ) -> Mapping[str, object] | None:
        """Awaits ``waiting``; None as soon as the connection, the session or the listener ends."""
        try:
            async with asyncio.timeout(None) as scope:
                self._poll = poll = Poll(session, scope)
                self.state.polls.enter(session.identity, poll, poll.end)
                if self.state.draining:
                    self._poll.end()
                return await waiting
        except TimeoutError:
            return None
        finally:
            if self._poll is not None:
                self.state.polls.leave(session.identity, self._poll)
            self._poll = None

    def end_poll(self) -> None:
        """Makes a long poll under way answer now."""
        if self._poll is not None:
            self._poll.end()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers invalid HTTP with a problem document; the connection closes after it."""
        if isinstance(exc, ConnectionError):  # the peer is gone: nothing to answer or log
            raise exc
        if status < 500:
            outcome = Rejected(code="payload_unreadable", reason=(message or "This is not HTTP").partition("\n")[0])
        else:
            self.logger.error("a request from %s failed", self.peer, exc_info=exc)
            outcome = Rejected(code="internal", reason="An internal error")
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun and cannot become an error any more")
        response = problem(outcome)
        response.force_close()
        return response


class DeviceServer(web.Server):
    """aiohttp's low-level server: no router, no middleware, one handler; its protocol is :class:`DeviceConnection`."""

    def __init__(
        self, state: AppState, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any
    ) -> None:  # Any: aiohttp's own keywords
        super().__init__(handler)
        self._state = state
        self._options = options

    def connection(self, lost: Callable[[], None]) -> DeviceConnection:
        """The protocol of a connection; it calls ``lost`` when it ends."""
        return DeviceConnection(self._state, self, lost, loop=self._loop, **self._options)

    @property
    def open(self) -> list[DeviceConnection]:
        """The open connections."""
        return cast("list[DeviceConnection]", self.connections)

    def sweep(self, now_s: float) -> None:
        """Aborts every connection past its deadline."""
        for connection in self.open:
            if connection.deadline <= now_s:
                connection.abort()
