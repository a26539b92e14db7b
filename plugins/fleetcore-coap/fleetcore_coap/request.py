"""A request under way, and the pieces of answers: what the handlers of :mod:`fleetcore_coap.handlers` have in hand."""

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
    """The peer, as the handlers need it."""

    @property
    def state(self) -> AppState:
        """What all peers have in common."""

    @property
    def name(self) -> str:
        """Its address, for people."""

    @property
    def certificate(self) -> bytes | None:
        """What it has shown in the handshake, DER."""

    @property
    def sequences(self) -> Mapping[str, str]:
        """Sequence numbers of commands → their ids."""

    @property
    def observations(self) -> Observations:
        """What it observes."""

    async def deliver(self, session: Session, message: Inbound) -> Outcome:
        """Has a message committed, or refused ``overloaded`` where the receive queue is full."""

    def learn_sequences(self, body: Mapping[str, object]) -> None:
        """Remembers the ids of commands by their sequence numbers."""

    def observe(self, request: "Request") -> Observation | None:
        """Registers a request; None where the peer observes as much as it may."""


@define(kw_only=True, eq=False)
class Request:
    """A request and what its path said.

    Attributes:
        body: all blocks of it.
        session: of the device that speaks; None only on what anybody may use.
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
        """The session, where one is demanded."""
        assert self.session is not None
        return self.session

    @property
    def subject(self) -> str:
        """The device that the request is about; whether ``who`` may speak for it the plane decides."""
        return self.match.leaf or self.who.identity

    def query(self, name: str) -> str | None:
        """A query parameter; raises Refused where it stands twice."""
        found = [text.partition("=")[2] for text in self.packet.texts(Option.URI_QUERY) if text.startswith(f"{name}=")]
        if found[1:]:
            raise Refused(f"{name} stands in the query twice", remedy="Send it once")
        return found[0] if found else None

    def integer(self, name: str) -> int | None:
        """A query parameter of whole numbers, or None; raises Refused for anything else."""
        text = self.query(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= EXACT_INTEGER):
            raise Refused(f"{name} is not a whole number from 0 to {EXACT_INTEGER}")
        return int(text)

    def media_type(self) -> str | None:
        """The media type of the body, or None; raises Refused for a Content-Format that is not known."""
        return media_type(self.packet.uint(Option.CONTENT_FORMAT))

    def inbound(self, *, target: str | None = None, if_version: int | None = None) -> Inbound:
        """The request as the message that it carries."""
        message_id = self.query("id")
        if message_id is not None and not is_message_id(message_id):
            raise Refused("id is not 1-64 printable ASCII characters")
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
        """It is refused here, before the plane has seen it."""
        subject = self.match.leaf or ("" if self.session is None else self.session.identity)
        message = Inbound(type=self.match.row or UNKNOWN, subject=subject, payload=self.body, target=self.match.target)
        state = self.peer.state
        state.plane.refused(self.session, message, rejected, protocol=state.context.name)

    def content(self, body: Mapping[str, object], *, code: int = CONTENT, etag: str | None = None) -> Packet:
        """An answer with a body in the form that was asked for, which :func:`servable` has seen."""
        number = answer_format(self.packet.uint(Option.ACCEPT), self.packet.uint(Option.CONTENT_FORMAT))
        tag = None if etag is None else packed(etag)
        given = [(Option.CONTENT_FORMAT, uint(number)), (Option.ETAG, tag)]
        return Packet(kind=Kind.ACK, code=code, options=options(given), payload=encoded(body, number))


def servable(accept: int | None, match: Match) -> bool:
    """Whether a path answers in the form that Accept asks for (RFC 7252 §5.10.4)."""
    if match.links:
        return accept in {None, LINK_FORMAT}
    return accept in ({None, OCTET_STREAM} if match.row is messages.ARTIFACT else {None, JSON, CBOR})


def empty(code: int, *given: tuple[int, bytes | None]) -> Packet:
    """An answer without a body."""
    return Packet(kind=Kind.ACK, code=code, options=options(given))
