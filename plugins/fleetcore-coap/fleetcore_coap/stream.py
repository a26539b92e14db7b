"""CoAP on TCP with TLS (RFC 8323): the connection of one device, and the listener with all connections.

Requests and answers are the same as over DTLS (:mod:`fleetcore_coap.peer`). Here the stream acknowledges and repeats, a
slow reader gets the next state once it has read the last one, and reading stops while the maximum number of requests is
under way.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from random import SystemRandom

from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DevicePlane, ProtocolAdapter
from fleetcore.interfaces.provider import Context
from fleetcore.listening.flow_control import PausableProtocol
from fleetcore.listening.persistent import PersistentConnections
from fleetcore.model.credential import CertificateCredential
from fleetcore_coap.app_state import AppState
from fleetcore_coap.codec import Kind, Malformed, Packet, addressed
from fleetcore_coap.config import CoapConfig
from fleetcore_coap.exchanges import MAX_UNDER_WAY
from fleetcore_coap.frames import ABORT, CSM, PING, RELEASE, Frames, TooLong, capabilities, critical, frame, pong
from fleetcore_coap.peer import Peer
from fleetcore_coap.readings import Readings

#: In addition to a body of the maximum length: its options.
_OPTION_BYTES = 1024
#: As over DTLS: a peer that is not a device yet.
_STRANGER_S = 120.0
_CLOSING_S = 2.0
#: The reasons not to read: the maximum number of requests; the peer does not read its answers; the server stops.
_BUSY, _SLOW, _ENDING = 1, 2, 4


class StreamExchanges:
    """The message layer on a stream, in place of :class:`~fleetcore_coap.exchanges.Exchanges`."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write: Callable[[bytes], None] = write
        self.under_way = 0
        #: Called once the peer has read what was written.
        self.untold: list[Callable[[], None]] = []
        self.slow = False

    @property
    def idle(self) -> bool:
        """Always: nothing here depends on time."""
        return True

    def answer(self, request: Packet, response: Packet, now_s: float) -> None:
        """Answers a request."""
        del now_s
        self.under_way -= 1
        self._write(frame(addressed(response, request.kind, 0, request.token)))

    def confirm(
        self,
        packet: Packet,
        now_s: float,
        *,
        acknowledged: Callable[[], None] = lambda: None,
        lost: Callable[[bool], None] = lambda _reset: None,
    ) -> bytes:
        """Sends a notification; the next one is sent once there is room for it."""
        del now_s, lost
        written = frame(packet)
        self._write(written)
        if self.slow:
            self.untold.append(acknowledged)
        else:
            acknowledged()
        return written

    def tick(self, now_s: float) -> None:
        """Nothing is repeated."""

    def close(self) -> None:
        """The peer is gone: nothing more is sent."""
        self.untold.clear()
        self._write = _drop  # replaces the connection's, which holds OpenSSL memory


def _drop(_data: bytes) -> None:
    """The connection has ended."""


class Connection(PausableProtocol):
    """One transport, from its first byte to its end."""

    def __init__(self, endpoint: "StreamEndpoint", lost: Callable[[], None]) -> None:
        super().__init__()
        self._endpoint, self._lost = endpoint, lost
        state = endpoint.state
        self._limit = state.context.limits.message_bytes + _OPTION_BYTES
        self._frames = Frames(self._limit)
        self._exchanges = StreamExchanges(self._write)
        self._peer: Peer | None = None
        self._greeted = False
        self._until_s = state.context.clock.monotonic_s() + state.context.listening.limits.head_s
        self._waiting: list[Packet] = []
        #: When a started message must be complete.
        self._whole_s = inf

    @property
    def identity(self) -> str:
        session = None if self._peer is None else self._peer.session
        return "" if session is None else session.identity

    @property
    def busy(self) -> bool:
        return self._exchanges.under_way > 0

    # -- bytes -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._endpoint.opened(self)
        shown = self.peer_certificate
        self._peer = Peer(
            self._endpoint.state,
            self.peer,
            end=lambda: self.end(RELEASE),
            identified=self._identified,
            credential=None if shown is None else CertificateCredential(shown),
            exchanges=self._exchanges,
            readings=self._endpoint.readings,
        )
        self._write(capabilities(self._limit))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.closed = True
        self.transport = None
        if self._peer is not None:
            self._peer.close()
        self._endpoint.lost(self)
        self._lost()

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            packets = self._frames.take(data)
        except (Malformed, TooLong):
            self.end(ABORT)
            return
        if packets:
            self._heard()
        self._waiting += packets
        if not self._frames.begun:
            self._whole_s = inf
        elif packets or self._whole_s == inf:
            state = self._endpoint.state
            self._whole_s = state.context.clock.monotonic_s() + state.context.listening.limits.body_s
        self._work()

    def read_on(self) -> None:
        self.resume()
        self._work()

    def _work(self) -> None:
        while self._waiting and not self.held and not self.closed:
            packet = self._waiting.pop(0)
            if packet.code >= CSM:
                self._signal(packet)
            elif not self._greeted:
                self.end(ABORT)  # RFC 8323 §5.3: the first message is CSM
            elif packet.is_request:
                self._ask(packet)

    def _signal(self, packet: Packet) -> None:
        if critical(packet):
            self.end(ABORT)
        elif packet.code == CSM:
            self._greeted = True
        elif packet.code == PING:
            self._write(pong(packet))
        elif packet.code in {RELEASE, ABORT}:
            self.end(None)

    def _ask(self, packet: Packet) -> None:
        assert self._peer is not None
        self._exchanges.under_way += 1
        if self._exchanges.under_way >= MAX_UNDER_WAY:
            self.hold(_BUSY)
        self._peer.handle(packet)

    def pause_writing(self) -> None:
        self._exchanges.slow = True
        self.hold(_SLOW)

    def resume_writing(self) -> None:
        self._exchanges.slow = False
        untold, self._exchanges.untold = self._exchanges.untold, []
        for told in untold:
            told()
        self.release(_SLOW)

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
        if self._exchanges.under_way < MAX_UNDER_WAY:
            self.release(_BUSY)

    # -- closing -----------------------------------------------------------------------------------------------

    def _identified(self) -> None:
        self._heard()
        self._endpoint.authenticated(self.identity, self)

    def _heard(self) -> None:
        state = self._endpoint.state
        self._until_s = state.context.clock.monotonic_s() + (self._endpoint.idle_s if self.identity else _STRANGER_S)

    def sweep(self, now_s: float) -> None:
        if now_s >= self._whole_s and not self.held:
            self._endpoint.state.context.listening.note(self._endpoint.name, "body_s", "a message took too long")
            self.end(ABORT)
        elif now_s >= self._until_s and not self.busy:
            self.end(RELEASE)

    def drain(self) -> None:
        self.hold(_ENDING)

    def end(self, signal: int | None) -> None:
        """Sends a final message and closes once it is sent; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self.transport is not None:
            if signal is not None:
                self.transport.write(frame(Packet(kind=Kind.CON, code=signal)))
            self.transport.close()


class StreamEndpoint(PersistentConnections[Connection], ProtocolAdapter):
    """The open listener and its connections. Of one device only the newest connection stays."""

    def __init__(self, state: AppState, idle_s: float) -> None:
        context = state.context
        super().__init__(context.name, context.listening, context.clock, context.logger, closing_s=_CLOSING_S)
        self.state, self.idle_s, self.readings = state, idle_s, Readings(state)

    def connection(self, lost: Callable[[], None]) -> Connection:
        return Connection(self, lost)

    def replace(self, earlier: Connection) -> None:
        earlier.end(RELEASE)

    def dismiss(self, connection: Connection) -> None:
        connection.end(RELEASE)


@asynccontextmanager
async def serve(
    config: CoapConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[StreamEndpoint]:
    """Listens while the context lasts; raises as :func:`fleetcore_coap.plugin.open_coap`."""
    listener = config.listener()
    tls = context.server_tls(config.listen, plain="coap+tcp://127.0.0.1:PORT", enrolling=True) if listener.tls else None
    if tls is not None:
        tls.set_alpn_protocols(["coap"])
    state = AppState(context=context, plane=plane, ingest=ingest, random=SystemRandom())
    endpoint = StreamEndpoint(state, config.idle_s)
    try:
        async with endpoint.listening(config.listen, listener.host, listener.port, tls):
            yield endpoint
    finally:
        await state.end()
