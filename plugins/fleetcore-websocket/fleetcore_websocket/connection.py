"""One device's connection: how it opens, what keeps it open, and how it ends.

Order of a connection: authenticate, then authorise, and only then touch state that other connections can see. Messages
of the device go through :mod:`.uplinks`; the WebSocket itself is in :mod:`.stream`.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

from websockets.http11 import Request, Response

from fleetcore.errors import FleetError, NotAuthenticated, Refused, Unavailable
from fleetcore.interfaces import ClaimSession, Session
from fleetcore.model.addresses import host_of, within
from fleetcore.model.credential import CertificateCredential
from fleetcore.model.message import UNKNOWN, Inbound, Rejected
from fleetcore.wire.times import format_time
from fleetcore_websocket import handshake
from fleetcore_websocket.applicant import Applicant, TokenSession
from fleetcore_websocket.closing import Close, of_session
from fleetcore_websocket.downlinks import Downlinks
from fleetcore_websocket.frames import ENVELOPE_BYTES
from fleetcore_websocket.handshake import Opening
from fleetcore_websocket.host import Host
from fleetcore_websocket.stream import Hold, MessageStream
from fleetcore_websocket.uplinks import OPEN_REQUESTS, Uplinks

#: The device plane must authenticate it within this time, or the device is asked to connect later.
AUTHENTICATION_S = 30.0
#: The closing handshake may take this long; then the transport is dropped.
CLOSING_S = 5.0


class _State(Enum):
    WAITING = auto()
    AUTHENTICATING = auto()
    OPEN = auto()


def frame_bytes(message_bytes: int) -> int:
    """The longest message of the WebSocket: a body of the maximum length in base64, and its frame."""
    return message_bytes * 4 // 3 + ENVELOPE_BYTES


class Connection(MessageStream):
    """One connection; see the module. Everything runs on the endpoint's loop."""

    def __init__(self, host: Host, lost: Callable[[], None] = lambda: None) -> None:
        app = host.app
        super().__init__(frame_bytes(app.context.limits.message_bytes))
        self._host, self._app, self._lost = host, app, lost
        self._limits = app.context.listening.limits
        self._state = _State.WAITING
        self._session: Session | None = None
        self._applying: ClaimSession | None = None
        self._taker: Uplinks | Applicant | None = None
        # Moments of the monotonic clock for the sweep, in seconds.
        self._opened_s = self._heard_s = self._asked_s = app.clock.monotonic_s()
        self._pinged_s: float | None = None
        self._unfinished_s: float | None = None
        self._downlinks: Downlinks | None = None
        self._closed_s: float | None = None

    @property
    def identity(self) -> str:
        """The device, or empty before it is authenticated."""
        return "" if self._session is None else self._session.identity

    @property
    def applicant(self) -> Applicant | None:
        """Handles a peer that may only enrol."""
        return self._taker if isinstance(self._taker, Applicant) else None

    @property
    def busy(self) -> bool:
        """Whether a frame was read and is not answered yet."""
        if self.closed:
            return False
        return self._state is _State.AUTHENTICATING or (self._taker is not None and self._taker.busy)

    def drain(self) -> None:
        """Stops reading; what was read is answered."""
        self.hold(Hold.DRAIN)
        if isinstance(self._taker, Uplinks):
            self._taker.answer_on()

    def end(self, code: Close, reason: str = "") -> None:
        """Closes, with a close frame if the handshake is complete. Idempotent."""
        if self.closed:
            return
        self._set_closed()
        if self._state is _State.OPEN:
            self.say_close(code, reason)
        else:
            self.abort()

    def left(self) -> None:
        self._set_closed()
        self.flush()

    def violated(self, code: int, reason: str) -> None:
        if code == Close.TOO_BIG:
            limit = self.wire.max_message_size
            rejected = Rejected(
                code="limit_exceeded", reason="The frame is too long", limit=limit, unit="bytes", scope="frame"
            )
        else:
            rejected = Rejected(code="protocol_violation", reason=reason)
        message = Inbound(type=UNKNOWN, subject=self.identity, payload=b"")
        self._app.plane.refused(self._session, message, rejected, protocol=self._app.name)
        self._set_closed()
        self.flush()

    def _set_closed(self) -> None:
        self.closed = True
        if self._closed_s is None:
            self._closed_s = self._app.clock.monotonic_s()

    def sweep(self, now_s: float) -> None:
        """Called about once a second: closes the connection if a deadline has passed."""
        if self._closed_s is not None:
            if now_s - self._closed_s >= CLOSING_S:
                self.abort()
        elif self._state is _State.WAITING:
            if now_s - self._opened_s >= self._limits.head_s:
                self._app.context.count("websocket_no_handshake")
                self.abort()
        elif self._state is _State.AUTHENTICATING:
            if now_s - self._asked_s >= AUTHENTICATION_S:
                self.abort()
        elif self.applicant is not None and now_s >= self.applicant.until_s:
            self.end(Close.NOT_ALLOWED, "enrolling may take no longer than this")
        else:
            self._sweep_open(now_s)

    def _sweep_open(self, now_s: float) -> None:
        # The listener disconnects a peer that reads nothing at all (``unread_s``).
        if self._downlinks is not None:
            self._downlinks.tell()
        if self.unfinished and not self.held:
            if self._unfinished_s is None:
                self._unfinished_s = now_s
            elif now_s - self._unfinished_s >= self._limits.body_s:
                self.end(Close.NOT_ALLOWED, "a message took too long")
                return
        else:
            self._unfinished_s = None
        if self.heard or self.held:
            self.heard, self._heard_s, self._pinged_s = False, now_s, None
        elif self._pinged_s is None:
            if now_s - self._heard_s >= self._app.config.ping_s:
                self._pinged_s = now_s
                self.ping()
        elif now_s - self._pinged_s >= self._app.config.ping_s:
            self.end(Close.SILENT, "no answer to a ping")

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._set_closed()
        self._host.lost(self)
        self._lost()
        if self.applicant is not None:
            self.applicant.lost()
        if self._applying is not None:
            self._applying.close()
        if self._session is not None:
            self._session.close()
        # Each refers to this connection, which holds OpenSSL memory; the collector frees such a cycle only after hours.
        self._taker = self._downlinks = None

    def pause_writing(self) -> None:
        # Otherwise replies would pile up: a device that does not read is not read.
        self.hold(Hold.WRITING)

    def resume_writing(self) -> None:
        self.release(Hold.WRITING)
        if self._downlinks is not None:
            self._downlinks.tell()
        if isinstance(self._taker, Uplinks):
            self._taker.answer_on()

    # -- opening --------------------------------------------------------------------------------------------------

    def requested(self, request: Request) -> None:
        response = self.wire.accept(request)
        if response.status_code != 101:
            self._refuse(handshake.explained(self.wire, response))
            return
        try:
            proxied = within(host_of(self.peer), self._app.proxies)
            opening = handshake.judge(request, self.peer_certificate, self._app.config.origins, proxied=proxied)
        except FleetError as error:
            self._refuse(handshake.refusal(self.wire, error))
            return
        self._state = _State.AUTHENTICATING
        self._asked_s = self._app.clock.monotonic_s()
        self.hold(Hold.AUTHENTICATION)
        self._host.spawn(self._authenticate(opening, response), f"{self._app.name}: authentication")

    def _refuse(self, response: Response) -> None:
        """Answers the handshake with a refusal; the transport is closed after it."""
        self._app.context.count("websocket_refused")
        self._set_closed()
        self.respond(response)

    async def _authenticate(self, opening: Opening, response: Response) -> None:
        try:
            session = await self._admit(opening)
        except FleetError as error:
            if not isinstance(error, Refused | Unavailable):
                self._app.context.logger.warning("authentication failed: %s", error)
            if not self.closed:
                self._turn_away(opening, response, error)
            return
        if self.closed:
            session.close()
        elif isinstance(session, ClaimSession):
            self._serve_applicant(opening, response, session)
        else:
            self._open(opening, response, session)

    async def _admit(self, opening: Opening) -> Session | ClaimSession:
        plane, name, peer, credential = self._app.plane, self._app.name, self.peer, opening.credential
        applying: ClaimSession | None = None
        if credential is None:
            applying = TokenSession(plane, self._app.context, opening.enrolment or "", peer)
        elif isinstance(credential, CertificateCredential):
            applying = await plane.claim(credential.der, protocol=name, peer=peer)
        if applying is None:
            assert credential is not None
            return await plane.authenticate(credential, protocol=name, peer=peer)
        if self._host.applicants.full(applying.name):
            applying.denied("session", "overloaded")
            applying.close()
            raise Unavailable("Too many peers are enrolling", retry_after_s=5.0)
        return applying

    def _turn_away(self, opening: Opening, response: Response, error: FleetError) -> None:
        if not opening.browser or not isinstance(error, Refused):
            self._refuse(handshake.refusal(self.wire, error))
            return
        self._state = _State.OPEN
        self.upgrade(response)
        self.end(Close.CREDENTIAL if isinstance(error, NotAuthenticated) else Close.REVOKED, error.code)

    def _open(self, opening: Opening, response: Response, session: Session) -> None:
        self._session, self._state = session, _State.OPEN
        self.opcode = opening.form.opcode
        self._host.authenticated(session.identity, self)
        self.upgrade(response)
        self._taker = Uplinks(self, self._host, opening.form, session)
        self.send(opening.form.write({"op": "hello", "body": self._hello(session)}))
        session.on_end(lambda code: self.end(of_session(code), code))
        if not self.closed:
            self._downlinks = Downlinks(self, self._host, opening.form, session)
            self._app.plane.listen(session, self._downlinks.take)
        self.release(Hold.AUTHENTICATION)

    def _serve_applicant(self, opening: Opening, response: Response, session: ClaimSession) -> None:
        """Opens for a peer that may enrol: no device session is affected."""
        self._applying, self._state = session, _State.OPEN
        self.opcode = opening.form.opcode
        self.upgrade(response)
        self._taker = Applicant(self, self._host, opening.form, session)
        self.send(opening.form.write({"op": "hello", "body": self._hello(None)}))
        session.on_end(lambda code: self.end(of_session(code), code))
        self.release(Hold.AUTHENTICATION)

    def _hello(self, session: Session | None) -> dict[str, object]:
        """The first frame for a device; without a session, for a peer that is not one yet."""
        found = self._app.context.discovery(
            None if session is None else session.identity,
            frame_bytes=frame_bytes(self._app.context.limits.message_bytes),
            open_requests=1 if session is None else OPEN_REQUESTS,
        )
        return {**found, "time": format_time(found["time_ms"])} if "time_ms" in found else found

    def message(self, payload: bytes) -> None:
        if self._taker is not None:
            self._taker.take(payload)
