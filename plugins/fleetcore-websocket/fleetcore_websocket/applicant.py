"""A connection with a claim certificate or an enrolment token: enrolment requests and their replies, and nothing else.

It takes the place of :mod:`.uplinks`. One request at a time: reading waits for its reply, which bounds the rest;
:mod:`fleetcore.listening.applicants` has the other limits.
"""

from fleetcore.interfaces import ClaimSession, Context, DevicePlane, EnrollRequest
from fleetcore.interfaces.protocol import CloseOnce
from fleetcore.listening.addresses import network
from fleetcore.listening.applicants import CONNECTED_S, MESSAGES
from fleetcore.model.addresses import host_of
from fleetcore.model.message import UNKNOWN, Inbound, Rejected, Reply
from fleetcore.wire import messages
from fleetcore.wire.bodies import read_body
from fleetcore.wire.replies import refusal
from fleetcore_websocket.closing import Close
from fleetcore_websocket.frames import Form, RequestId, Unreadable, reply_members
from fleetcore_websocket.host import Host
from fleetcore_websocket.stream import Hold, MessageStream

#: The longest message: a certificate request has at most 16 KiB, and the device's description comes with it.
FRAME_BYTES = 65_536


class TokenSession(CloseOnce, ClaimSession):
    """A peer with an enrolment token.

    The token is checked at its use: with any token, the connection opens, and is counted by its address.
    """

    def __init__(self, plane: DevicePlane, context: Context, token: str, peer: str) -> None:
        super().__init__()
        self._plane, self._context, self._token, self._peer = plane, context, token, peer

    @property
    def name(self) -> str:
        return f"enrolment token from {network(host_of(self._peer))}"

    def denied(self, what: str, code: str, **data: object) -> None:
        del data
        rejected = Rejected(code=code, reason=f"{what} with an enrolment token")
        message = Inbound(type=UNKNOWN, subject="", payload=b"")
        self._plane.refused(None, message, rejected, protocol=self._context.name)

    async def call(self, message: Inbound) -> Reply:
        if message.type is messages.CA_GET and self._context.tls is not None:
            return Reply(body={"ca": self._context.tls.ca_bundle().decode("ascii")})
        if message.type is not messages.ENROLL:
            self.denied(message.type.name, "not_authorised")
            return refusal(Rejected(code="not_authorised", reason="An enrolment token can only enrol devices"))
        body = read_body(messages.ENROLL, message.payload, message.content_type, self._context.limits.json_depth)
        if isinstance(body, Rejected):
            self._plane.refused(None, message, body, protocol=self._context.name)
            return refusal(body)
        token, protocol = body.token or self._token, self._context.name
        return await self._plane.enroll(EnrollRequest.of(body, token=token, source=self._peer, protocol=protocol))


class Applicant:
    """Belongs to one open connection."""

    def __init__(self, stream: MessageStream, host: Host, form: Form, session: ClaimSession) -> None:
        self._stream, self._host, self._form, self._session = stream, host, form, session
        self._app = host.app
        self._messages = 0
        self.busy = False
        self.until_s = host.app.clock.monotonic_s() + CONNECTED_S
        stream.limit(FRAME_BYTES)
        host.applicants.enter(session.name)

    def lost(self) -> None:
        """Called when the transport is closed."""
        self._host.applicants.leave(self._session.name)

    def take(self, payload: bytes) -> None:
        """Handles one message of the WebSocket."""
        self._messages += 1
        if self._messages > MESSAGES:
            self._session.denied("session", "rate_limited")
            self._stream.end(Close.NOT_ALLOWED, "a peer that enrols may send no more requests")
            return
        self.busy = True
        self._stream.hold(Hold.REQUESTS)
        self._host.spawn(self._answer(payload), f"{self._app.name}: enrolling")

    async def _answer(self, payload: bytes) -> None:
        try:
            number, reply = await self._reply(payload)
            if self._stream.closed:
                return
            if number is not None:
                self._stream.send(self._form.write(reply_members(number, reply, {})))
            elif reply.error is not None:
                self._stream.send(self._form.write({"op": messages.ERRORS.name, "body": reply.error}))
        finally:
            self.busy = False
            self._stream.release(Hold.REQUESTS)

    async def _reply(self, payload: bytes) -> tuple[RequestId | None, Reply]:
        try:
            frame = self._form.read(payload)
        except Unreadable as error:
            return error.id, self._refused(error.rejected)
        row = messages.NAMED.get(frame.op)
        if row is None:
            reason = f"{frame.op[:64]!r} cannot be sent"
            return frame.id, self._refused(Rejected(code="operation_unknown", reason=reason, pointer="/op"))
        if frame.id is None:
            reason = "enrolment is answered: give the frame an id"
            return None, self._refused(Rejected(code="schema_invalid", reason=reason, pointer="/id"))
        name = self._session.name
        if frame.device is not None:
            self._session.denied(row.name, "not_authorised", subject=frame.device)
            return frame.id, refusal(
                Rejected(code="not_authorised", reason="A peer that enrols cannot send about a device")
            )
        message = Inbound(type=row, subject=name, payload=frame.payload, content_type=frame.content_type)
        return frame.id, await self._session.call(message)

    def _refused(self, rejected: Rejected) -> Reply:
        message = Inbound(type=UNKNOWN, subject=self._session.name, payload=b"")
        self._app.plane.refused(None, message, rejected, protocol=self._app.name)
        return refusal(rejected)
