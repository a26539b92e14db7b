"""A request under way, and parts of answers: the tools of :mod:`fleetcore_coap.handlers`."""

from collections.abc import Mapping
from typing import Protocol

from attrs import define

from fleetcore.errors import Refused
from fleetcore.interfaces.protocol import Session
from fleetcore.model.message import UNKNOWN, Inbound, MessageType, Outcome, Rejected
from fleetcore.model.names import is_message_id
from fleetcore.wire import messages
from fleetcore.wire.strict_json import EXACT_INTEGER
from fleetcore_coap.app_state import AppState
from fleetcore_coap.codec import CONTENT, Kind, Option, Packet, options, uint
from fleetcore_coap.etags import packed
from fleetcore_coap.formats import CBOR, JSON, LINK_FORMAT, OCTET_STREAM, answer_format, encoded, media_type
from fleetcore_coap.observations import Observation, Observations
from fleetcore_coap.routes import Match


class Speaker(Protocol):
    """The peer, as the handlers use it."""

    @property
    def state(self) -> AppState:
        """The state that all peers share."""

    @property
    def name(self) -> str:
        """Its address, for people."""

    @property
    def certificate(self) -> bytes | None:
        """Its certificate from the handshake, DER."""

    @property
    def sequences(self) -> Mapping[str, str]:
        """Sequence numbers of commands → their ids."""

    @property
    def observations(self) -> Observations:
        """Its observations."""

    async def deliver(self, session: Session, message: Inbound) -> Outcome:
        """Commits a message; refuses it as ``overloaded`` if the receive queue is full."""

    def learn_sequences(self, body: Mapping[str, object]) -> None:
        """Stores the ids of commands by their sequence numbers."""

    def observe(self, request: "Request") -> Observation | None:
        """Registers a request; None if the peer already observes the maximum."""


@define(kw_only=True, eq=False)
class Request:
    """A request and the values in its path.

    Attributes:
        body: all its blocks.
        session: the sending device's; None only on public paths.
    """

    peer: Speaker
    packet: Packet
    match: Match
    body: bytes = b""
    session: Session | None = None

    @property
    def row(self) -> MessageType:
        """The type of the message."""
        assert self.match.row is not None
        return self.match.row

    @property
    def who(self) -> Session:
        """The session, on paths that require one."""
        assert self.session is not None
        return self.session

    @property
    def subject(self) -> str:
        """The device that the request is about; the plane decides whether ``who`` may send about it."""
        return self.match.leaf or self.who.identity

    def query(self, name: str) -> str | None:
        """A query parameter; raises Refused if it is repeated."""
        found = [text.partition("=")[2] for text in self.packet.texts(Option.URI_QUERY) if text.startswith(f"{name}=")]
        if found[1:]:
            raise Refused(f"{name} is repeated in the query", remedy="Send it once")
        return found[0] if found else None

    def integer(self, name: str) -> int | None:
        """An integer query parameter, or None; raises Refused for anything else."""
        text = self.query(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= EXACT_INTEGER):
            raise Refused(f"{name} must be an integer from 0 to {EXACT_INTEGER}")
        return int(text)

    def media_type(self) -> str | None:
        """The media type of the body, or None; raises Refused for an unknown Content-Format."""
        return media_type(self.packet.uint(Option.CONTENT_FORMAT))

    def inbound(self, *, target: str | None = None, if_version: int | None = None) -> Inbound:
        """The request as its message."""
        message_id = self.query("id")
        if message_id is not None and not is_message_id(message_id):
            raise Refused("id must be 1-64 printable ASCII characters")
        return Inbound(
            type=self.row,
            subject=self.subject,
            payload=self.body,
            content_type=self.media_type(),
            id=message_id,
            target=target,
            if_version=if_version,
        )

    def note_refused(self, rejected: Rejected) -> None:
        """Notes that it is refused here, before the plane gets it."""
        subject = self.match.leaf or ("" if self.session is None else self.session.identity)
        message = Inbound(type=self.match.row or UNKNOWN, subject=subject, payload=self.body, target=self.match.target)
        state = self.peer.state
        state.plane.refused(self.session, message, rejected, protocol=state.context.name)

    def content(self, body: Mapping[str, object], *, code: int = CONTENT, etag: str | None = None) -> Packet:
        """An answer with a body in the requested format, which :func:`servable` has checked."""
        number = answer_format(self.packet.uint(Option.ACCEPT), self.packet.uint(Option.CONTENT_FORMAT))
        tag = None if etag is None else packed(etag)
        given = [(Option.CONTENT_FORMAT, uint(number)), (Option.ETAG, tag)]
        return Packet(kind=Kind.ACK, code=code, options=options(given), payload=encoded(body, number))


def servable(accept: int | None, match: Match) -> bool:
    """Whether a path can answer in the format of Accept (RFC 7252 §5.10.4)."""
    if match.links:
        return accept in {None, LINK_FORMAT}
    return accept in ({None, OCTET_STREAM} if match.row is messages.ARTIFACT else {None, JSON, CBOR})


def empty(code: int, *given: tuple[int, bytes | None]) -> Packet:
    """An answer without a body."""
    return Packet(kind=Kind.ACK, code=code, options=options(given))
