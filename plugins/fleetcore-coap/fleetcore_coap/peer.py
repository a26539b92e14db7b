"""One peer: its exchanges, its session, and its requests from the first block to the answer."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from fleetcore.errors import CODES, FleetError, NotAuthenticated, NotAuthorised
from fleetcore.interfaces.protocol import Session
from fleetcore.model.credential import CertificateCredential, KeyCredential
from fleetcore.model.message import UNKNOWN, Downlink, Inbound, MessageType, Outcome, Rejected
from fleetcore.wire import messages
from fleetcore.wire.replies import rejection
from fleetcore_coap import handlers, problems
from fleetcore_coap.app_state import AppState
from fleetcore_coap.blocks import (
    BLOCK_BYTES,
    EXPONENT,
    Answers,
    Bodies,
    Continue,
    Incomplete,
    OutOfRange,
    TooLong,
    block_options,
    cut,
    etag_of,
)
from fleetcore_coap.codec import (
    BAD_OPTION,
    CONTINUE,
    INCOMPLETE,
    METHOD_NOT_ALLOWED,
    NOT_ACCEPTABLE,
    TOO_LARGE,
    Kind,
    Method,
    Option,
    Packet,
    options,
    uint,
)  # fmt: skip
from fleetcore_coap.echo import Echo
from fleetcore_coap.exchanges import MAX_UNDER_WAY
from fleetcore_coap.observations import Observation, Observations
from fleetcore_coap.readings import Readings
from fleetcore_coap.request import Request, empty, servable
from fleetcore_coap.routes import Match, find

#: Sequence numbers of commands that a peer has seen, so that it may answer one after it is finished.
_MAX_SEQUENCES = 64
#: A refused credential is not checked again for this long; its device may be registered meanwhile.
_REFUSED_S = 30.0
#: For an observed state: the row that a downlink changes.
_STATE_OF: Mapping[MessageType, MessageType] = {
    messages.TWIN_DESIRED: messages.TWIN_DESIRED,
    messages.COMMAND: messages.COMMAND,
    messages.COMMAND_CANCEL: messages.COMMAND,
    messages.FIRMWARE: messages.FIRMWARE,
}


class Answering(Protocol):
    """The message layer, as a peer uses it."""

    @property
    def idle(self) -> bool:
        """Nothing is under way."""

    def answer(self, request: Packet, response: Packet, now_s: float) -> None:
        """Answers a request."""

    def confirm(
        self,
        packet: Packet,
        now_s: float,
        *,
        acknowledged: Callable[[], None] = ...,
        lost: Callable[[bool], None] = ...,
    ) -> bytes:
        """Sends a message until it has arrived, and reports that, or its loss."""

    def tick(self, now_s: float) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The peer is gone."""


def _nothing() -> None:
    """There is nothing to end."""


class Peer:
    """One peer; see the module.

    Args:
        name: its address, for people.
        end: ends its connection.
        identified: called when its session has begun.
        exchanges: the message layer below it.
        echo: if its address is not verified: over plain CoAP.
        readings: the fast path of its listener.

    Attributes:
        credential: from the handshake, or None.
        session: once it has authenticated.
        sequences: of commands → their ids.
    """

    def __init__(
        self,
        state: AppState,
        name: str,
        *,
        end: Callable[[], None],
        identified: Callable[[], None],
        credential: CertificateCredential | KeyCredential | None,
        exchanges: Answering,
        echo: Echo | None = None,
        readings: Readings | None = None,
    ) -> None:
        self.state, self.name, self.credential, self._echo = state, name, credential, echo
        self._readings = readings
        self._end, self._identified = end, identified
        self.exchanges = exchanges
        self.observations = Observations()
        self.session: Session | None = None
        self.sequences: OrderedDict[str, str] = OrderedDict()
        self._refusal: FleetError | None = None
        self._refused_until_s = 0.0
        self._identifying = asyncio.Lock()
        self._bodies = Bodies(state.context.limits.message_bytes)
        self._answers = Answers()
        self._listening = False
        self._closed = False

    @property
    def certificate(self) -> bytes | None:
        """Its certificate from the handshake, DER, or None."""
        return self.credential.der if isinstance(self.credential, CertificateCredential) else None

    # -- messages ----------------------------------------------------------------------------------------------------

    def handle(self, request: Packet) -> None:
        """Handles a new request; it is answered through the message layer."""
        self.state.awake.add(self)
        session = self.session
        if (
            self._readings is None
            or session is None
            or session.ended is not None
            or self._echo is not None
            or not self._readings.take(self, session, request)
        ):
            self.state.spawn(self._answer(request), "request")

    async def finish(self, request: Request, outcome: Outcome) -> None:
        """Answers a request of the fast path."""
        response = handlers.answered(request, outcome)
        pending = await self._pending(request, response)
        self.exchanges.answer(request.packet, self._finished(request, response, pending), self._now_s())
        self.notify()

    def close(self) -> None:
        """The connection has ended; idempotent."""
        self._closed = True
        self.state.awake.discard(self)
        if self.session is not None:
            self.session.close()
        # Each refers to this peer; the collector frees such a cycle only after hours.
        self._end = self._identified = _nothing
        self.exchanges.close()

    def tick(self) -> bool:
        """Handles the passing of time; returns whether it needs further ticks."""
        now_s = self._now_s()
        self.exchanges.tick(now_s)
        self._bodies.forget(now_s)
        self._answers.forget(now_s)
        return not self.exchanges.idle or len(self._bodies) > 0 or len(self._answers) > 0

    def busy(self, packet: Packet) -> Packet:
        """The answer to a request beyond those under way; it is noted."""
        refusal = Rejected(
            code="overloaded",
            reason=f"{MAX_UNDER_WAY} requests are under way",
            limit=MAX_UNDER_WAY,
            unit="requests",
            scope="device",
            retry_after_s=1.0,
        )
        Request(peer=self, packet=packet, match=Match(None, frozenset())).note_refused(refusal)
        return problems.problem(refusal)

    def _now_s(self) -> float:
        return self.state.context.clock.monotonic_s()

    async def _answer(self, packet: Packet) -> None:
        request = Request(peer=self, packet=packet, match=Match(None, frozenset()))
        challenge = None if self._echo is None else self._echo.challenge(packet)
        if challenge is not None:
            self.exchanges.answer(packet, challenge, self._now_s())
            return
        try:
            response = await self._respond(request)
        except FleetError as error:
            refusal = rejection(error)
            request.note_refused(refusal)
            response = problems.problem(refusal)
        except Exception:
            self.state.context.logger.exception("A request of %s failed", self.name)
            response = problems.problem(Rejected(code="internal", reason="An internal error"))
        pending = await self._pending(request, response)
        response = self._finished(request, response, pending)
        if self._echo is not None:
            response = self._echo.challenge(packet, response) or response
        self.exchanges.answer(packet, response, self._now_s())
        self.notify()

    async def _respond(self, request: Request) -> Packet:
        packet = request.packet
        if packet.not_understood is not None:
            return empty(BAD_OPTION)
        match = find(packet.texts(Option.URI_PATH))
        if match is None:
            refusal = Rejected(code="operation_unknown", reason="Nothing is served at this path")
            self.state.plane.refused(
                self.session, Inbound(type=UNKNOWN, subject=self._identity, payload=b""), refusal,
                protocol=self.state.context.name,
            )  # fmt: skip
            return problems.problem(refusal)
        request.match = match
        if packet.code not in match.methods:
            refusal = Rejected(code="operation_unknown", reason="This path does not take the method")
            request.note_refused(refusal)
            return problems.problem(refusal, code=METHOD_NOT_ALLOWED)
        # Before any effect: a committed request cannot be refused for the format of its answer.
        if not servable(packet.uint(Option.ACCEPT), match):
            return empty(NOT_ACCEPTABLE)
        if any(
            given is not None and given.exponent > EXPONENT
            for given in (packet.block(Option.BLOCK1), packet.block(Option.BLOCK2))
        ):
            refusal = Rejected(code="payload_unreadable", reason=f"A block may have at most {BLOCK_BYTES} bytes")
            request.note_refused(refusal)
            return problems.problem(refusal)  # 4.00: RFC 7959 §2.2
        if match.links:
            return handlers.link_list()
        if self.credential is not None and match.row is not messages.ENROLL:
            request.session = await self._identify()
        elif match.row is not None and not match.row.public:
            raise NotAuthenticated("No client certificate was sent")
        block = packet.block(Option.BLOCK2)
        if packet.code != Method.GET and block is not None and block.number:
            return self._answers.find(packet) or empty(INCOMPLETE)
        body = self._bodies.take(packet, self._now_s())
        if isinstance(body, Continue):
            return empty(CONTINUE, (Option.BLOCK1, body.block.encode()))
        if isinstance(body, Incomplete):
            return problems.problem(Rejected(code="payload_unreadable", reason=body.why), code=INCOMPLETE)
        if isinstance(body, TooLong):
            return self._too_long(request)
        request.body = body
        return await handlers.handler_of(match.row)(request)

    def _too_long(self, request: Request) -> Packet:
        limit = self.state.context.limits.message_bytes
        refusal = Rejected(
            code="limit_exceeded",
            reason="The body is longer than the limit",
            limit=limit,
            unit="bytes",
            scope="message",
        )
        request.note_refused(refusal)
        answer = problems.problem(refusal, code=TOO_LARGE)
        return replace(answer, options=options([*answer.options, (Option.SIZE1, uint(limit))]))

    async def deliver(self, session: Session, message: Inbound) -> Outcome:
        """Commits a message; refuses it as ``overloaded`` if the receive queue is full.

        All devices share a socket, so reading cannot stop for one alone: the answer slows its sender down.
        """
        return await self.state.ingest.submit(session, message)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _finished(self, request: Request, response: Packet, pending: bytes | None) -> Packet:
        """The final answer: with the requested block, and the waiting items."""
        packet = request.packet
        if pending is None and not response.payload and packet.get(Option.BLOCK1) is None:
            return response
        if packet.code != Method.GET and response.get(Option.BLOCK2) is None and len(response.payload) > 1024:
            self._answers.keep(packet, response, self._now_s())
        response = _blockwise(packet, response)
        given: list[tuple[int, bytes | None]] = [*response.options, (Option.PENDING, pending)]
        block = packet.block(Option.BLOCK1)
        if block is not None and response.get(Option.BLOCK1) is None:
            given.append((Option.BLOCK1, block.encode()))
        return replace(response, options=options(given))

    async def _pending(self, request: Request, response: Packet) -> bytes | None:
        """The waiting items of the subject: a device learns them from any answer. The same words as over HTTP."""
        session = request.session or self.session
        if session is None or session.ended is not None or response.code == CONTINUE:
            return None
        refused = response.code >= 128
        subject = request.match.leaf if request.match.leaf is not None and not refused else session.identity
        try:
            found = await self.state.plane.pending(session, subject)
        except FleetError:  # the store fails: the answer reports it
            return None
        return ", ".join([f"{name}={count}" for name, count in found.items() if count]).encode() or None

    # -- who it is ---------------------------------------------------------------------------------------------------

    @property
    def _identity(self) -> str:
        return "" if self.session is None else self.session.identity

    async def _identify(self) -> Session:
        """The session of the credential; authenticated once."""
        async with self._identifying:
            if self._refusal is not None and self._now_s() < self._refused_until_s:
                raise self._refusal
            if self.session is None:
                assert self.credential is not None
                try:
                    session = await self.state.plane.authenticate(
                        self.credential,
                        protocol=self.state.context.name,
                        peer=self.name,
                        lasting=False,
                    )
                except (NotAuthenticated, NotAuthorised) as error:
                    self._refusal, self._refused_until_s = error, self._now_s() + _REFUSED_S
                    raise
                if self._closed:
                    session.close()
                self.session = session
                self._identified()
                session.on_end(lambda _code: self._end())
        if self.session.ended is not None:
            code = self.session.ended
            raise NotAuthorised("The session has ended", code=code if code in CODES else None)
        return self.session

    # -- states ------------------------------------------------------------------------------------------------------

    def learn_sequences(self, body: Mapping[str, object]) -> None:
        """Stores the ids of commands by their sequence numbers."""
        commands = body.get("commands")
        if not isinstance(commands, Sequence):
            return
        for command in commands:
            self.sequences[str(command["sequence"])] = str(command["id"])
        while len(self.sequences) > _MAX_SEQUENCES:
            self.sequences.popitem(last=False)

    def observe(self, request: Request) -> Observation | None:
        """Registers a request; None if the peer already observes the maximum."""
        observation = self.observations.begin(request.packet, request.row, request.subject)
        if observation is not None and not self._listening:
            self._listening = True
            self.state.plane.listen(request.who, self._changed)
        return observation

    def _changed(self, downlink: Downlink) -> None:
        row = _STATE_OF.get(downlink.type)
        if row is not None and self.observations.changed(row, downlink.subject):
            self.notify()

    def notify(self) -> None:
        """Sends the next changed state, unless a notification is outstanding."""
        observation = None if self._closed else self.observations.take()
        if observation is not None:
            self.state.spawn(self._tell(observation), "notification")

    async def _tell(self, observation: Observation) -> None:
        ends = False
        session, request = (
            self.session,
            Request(
                peer=self, packet=observation.request, match=Match(observation.row, frozenset()), session=self.session
            ),
        )
        try:
            assert session is not None
            body = await handlers.state(self.state.plane.wait, session, observation.subject, observation.row, 0)
            if observation.row is messages.COMMAND:
                self.learn_sequences(body)
            answer = request.content(body)
            given: list[tuple[int, bytes | None]] = [(Option.OBSERVE, uint(observation.next()))]
        except FleetError as error:  # a notification with an error ends the observation (RFC 7641 §4.2)
            answer, given = problems.problem(rejection(error)), []
            ends = True
        except BaseException:
            self.observations.outstanding = False
            raise
        answer = _blockwise(Packet(kind=Kind.CON, code=Method.GET), answer)
        answer = replace(answer, token=observation.request.token, options=options([*answer.options, *given]))
        if self._closed:
            return
        self.state.awake.add(self)
        self.exchanges.confirm(
            answer, self._now_s(), acknowledged=self._told, lost=lambda _reset: self._untold(observation)
        )
        if ends:
            self.observations.end(observation.request.token)

    def _told(self) -> None:
        self.observations.outstanding = False
        self.notify()

    def _untold(self, observation: Observation) -> None:
        if self.observations.holds(observation):
            self.observations.end(observation.request.token)
        self._told()


def _blockwise(packet: Packet, response: Packet) -> Packet:
    """The requested block of an answer, with ETag and Size2 (RFC 7959 §2.4 and §4)."""
    if response.get(Option.BLOCK2) is not None or not response.payload:
        return response
    size = len(response.payload)
    try:
        part = cut(packet.block(Option.BLOCK2), size)
    except OutOfRange:
        return response if response.code >= 128 else empty(BAD_OPTION)
    if part is None:
        return response
    block, end = part
    given: list[tuple[int, bytes | None]] = [*response.options, *block_options(block, size)]
    if response.get(Option.ETAG) is None:
        given.append((Option.ETAG, etag_of(response.payload)))
    return replace(response, options=options(given), payload=response.payload[block.start : end])
