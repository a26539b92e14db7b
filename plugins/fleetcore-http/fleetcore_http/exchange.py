"""One request under way, as the handlers of :mod:`fleetcore_http.routes` use it."""

from aiohttp import web
from attrs import define
from multidict import MultiMapping

from fleetcore.errors import FleetError, Refused
from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import UNKNOWN, Inbound, MessageType, Rejected
from fleetcore.model.names import is_message_id
from fleetcore.wire.headers import Headers
from fleetcore.wire.strict_json import EXACT_INTEGER
from fleetcore_http.answers import pending_header
from fleetcore_http.app_state import AppState
from fleetcore_http.bodies import read_body
from fleetcore_http.connection import DeviceConnection

#: wire.md §7: the maximum of a long poll, below the minute of common proxies.
MAX_WAIT_S = 55


@define(kw_only=True, eq=False)
class Exchange:
    """A request and the values in its path.

    Attributes:
        headers: the parsed headers; empty before they were checked.
        session: the sending device's; None only on public routes.
        row: the message type of the path, or None.
        leaf: the leaf in the path, or None: then the subject is the sending device.
        payload: the body, once it is read.
        target: the id in the path: a command's, or an artifact's digest.
    """

    state: AppState
    connection: DeviceConnection
    request: web.BaseRequest
    headers: Headers = Headers(fields={})
    session: Session | None = None
    row: MessageType | None = None
    leaf: str | None = None
    target: str | None = None
    payload: bytes = b""

    @property
    def who(self) -> Session:
        """The session, on a route that requires one."""
        assert self.session is not None
        return self.session

    @property
    def subject(self) -> str:
        """The device that the request is about; the plane decides whether ``who`` may send about it."""
        return self.leaf or self.who.identity

    async def body(self) -> bytes:
        """The body, read once; raises as :func:`fleetcore_http.bodies.read_body`."""
        limit = self.state.context.limits.message_bytes
        if self.request.content.is_eof():
            self.payload = await read_body(self.request, self.headers, limit)
            return self.payload
        self.connection.expect_body()
        try:
            self.payload = await read_body(self.request, self.headers, limit)
            return self.payload
        finally:
            self.connection.got_body()

    def media_type(self) -> str | None:
        """The declared media type from :class:`Headers`; None if it is missing."""
        return self.headers.media_type

    def message_id(self) -> str | None:
        """``Idempotency-Key``; raises Refused for an invalid message id."""
        key = self.headers.idempotency_key
        if key is None:
            return None
        if not is_message_id(key):
            raise Refused("Idempotency-Key must be 1-64 printable ASCII characters")
        return key

    def note_refused(self, rejected: Rejected) -> None:
        """Records a request that is refused here, before the plane gets it."""
        subject = self.leaf or ("" if self.session is None else self.session.identity)
        message = Inbound(type=self.row or UNKNOWN, subject=subject, payload=self.payload, target=self.target)
        self.state.plane.refused(self.session, message, rejected, protocol=self.state.context.name)

    async def message(self, type: MessageType, *, if_version: int | None = None) -> Inbound:
        """The request as its message."""
        return Inbound(
            type=type,
            subject=self.subject,
            payload=await self.body(),
            content_type=self.media_type(),
            id=self.message_id(),
            target=self.target,
            if_version=if_version,
        )

    def integer(self, name: str, *, most: int = EXACT_INTEGER) -> int:
        """An integer query parameter from 0 to ``most``; 0 if it is absent."""
        texts = self.query.getall(name, ())
        if not texts:
            return 0
        if texts[1:]:
            raise Refused(f"{name} is repeated in the query", remedy="Send it once")
        text: str = texts[0]
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
            raise Refused(f"{name} must be an integer from 0 to {most}")
        return int(text)

    @property
    def query(self) -> MultiMapping[str]:
        """The query parameters."""
        return self.request.rel_url.query

    async def note_pending(self, response: web.StreamResponse) -> None:
        """Lists the subject's waiting items in ``Fleetcore-Pending``: a sleeping device gets them with any answer."""
        session = self.session
        if session is None or session.ended is not None:
            return
        # A refusal may come before the check of the leaf: then only the sender's items are listed.
        subject = self.leaf if self.leaf is not None and response.status < 400 else session.identity
        try:
            pending = await self.state.plane.pending(session, subject)
        except FleetError:  # the store fails: the answer reports it
            return
        if text := pending_header(pending):
            response.headers["Fleetcore-Pending"] = text
