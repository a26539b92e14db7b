"""A client's connection to one server: a connected socket, DTLS on it, and requests waiting for answers by token."""

import asyncio
from random import SystemRandom
from typing import cast

from msgspec.structs import replace
from OpenSSL import SSL

from fleetcore.errors import ConfigError, NotAuthenticated, Unavailable
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore.wire.shared_keys import shared_key
from fleetcore_coap.aiocoap_codec import AIOCOAP
from fleetcore_coap.association import Association, prepare
from fleetcore_coap.codec import Packet
from fleetcore_coap.config import listener
from fleetcore_coap.contexts import client_context, key_client_context, names
from fleetcore_coap.correlation import Correlation, fail
from fleetcore_coap.echo import with_echo
from fleetcore_coap.exchanges import Exchanges
from fleetcore_coap.records import look

#: An alert about a key, as OpenSSL spells it.
_REFUSED = "decrypt error"
#: The time limit of a handshake, and of an answer after its request was acknowledged; above any commit, below a
#: person's patience.
HANDSHAKE_S, ANSWER_S = 60.0, 30.0
_TICK_S = 0.25


class Channel(asyncio.DatagramProtocol):
    """Opened by :meth:`open`, closed by :meth:`close`. ``correlation`` has the waiting requests."""

    #: Each message is protected individually, so the transport need not be.
    protected = False

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        self._endpoint, self._secrets = endpoint, secrets
        self._random = SystemRandom()
        self._transport: asyncio.DatagramTransport | None = None
        self._association: Association | None = None
        self._exchanges: Exchanges | None = None
        self.correlation = Correlation(self._random)
        self._established: asyncio.Future[None] | None = None
        self._retransmission: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._lost = self._closing = False

    @property
    def closing(self) -> bool:
        """Whether this side has closed it."""
        return self._closing

    async def open(self) -> None:
        """Shakes hands.

        Raises:
            NotAuthenticated: the server does not know the key of the device token, or has a different one.
            Unavailable: no answer, or the answer is not from the expected server.
        """
        try:
            where = listener(self._endpoint, protected=self.protected)
        except ConfigError as error:
            raise Unavailable(f"{self._endpoint} is not a CoAP server: {error}", code="not_ready") from error
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, remote_addr=(where.host, where.port))
        except OSError as error:
            raise Unavailable(f"{self._endpoint} cannot be reached: {error}", code="not_ready") from error
        try:
            if where.tls:
                await self._shake_hands(where.host)
            else:
                self._exchanges = Exchanges(self._datagram, self._random, codec=AIOCOAP)
        except BaseException:
            self.close()
            raise
        self._ticking = loop.create_task(self._tick(), name="CoAP client: time")

    async def _shake_hands(self, host: str) -> None:
        secrets = self._secrets
        if secrets.token is None:
            context = client_context(secrets.ca, secrets.certificate, secrets.key)
        else:
            shared = shared_key(secrets.device, secrets.token)
            context = key_client_context(shared.token, shared.key)
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        prepare(connection)
        self._established = asyncio.get_running_loop().create_future()
        self._association = association = Association(connection, self._datagram)
        association.begin()
        self._after()
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._established
        except TimeoutError as error:
            raise Unavailable(f"{self._endpoint} does not answer", code="not_ready") from error
        shown = association.certificate
        # If there is a key, it authenticates the server.
        if secrets.token is None and (shown is None or not names(shown, host)):
            raise Unavailable(f"The certificate of {self._endpoint} is for another name", code="not_ready")
        self._exchanges = Exchanges(association.send, self._random, codec=AIOCOAP)

    def close(self) -> None:
        """Notifies the server and closes; idempotent."""
        self._closing = True
        if self._association is not None:
            self._association.close()
        self._end("The client is closed")

    # -- requests --------------------------------------------------------------------------------------------------

    async def ask(self, packet: Packet, *, token: bytes | None = None) -> Packet:
        """Sends a request and returns its answer; raises Unavailable without one.

        If the server first wants to verify our address, the request is sent again with its value (RFC 9175 §2).
        """
        answer = await self._ask(packet, token)
        again = with_echo(packet, answer)
        return answer if again is None else await self._ask(again, token)

    async def _ask(self, packet: Packet, token: bytes | None) -> Packet:
        if self._exchanges is None or self._lost:
            raise Unavailable("The association is lost", code="not_ready")
        token = self.correlation.new_token() if token is None else token
        with self.correlation.waiting(token) as answer:

            def lost(reset: bool) -> None:
                fail(answer, f"{self._endpoint} {'resets the request' if reset else 'does not answer'}")

            try:
                self._exchanges.confirm(replace(packet, token=token), self._now_s(), lost=lost)
                async with asyncio.timeout(ANSWER_S):
                    return await answer
            except TimeoutError as error:
                raise Unavailable(f"{self._endpoint} does not answer", code="not_ready") from error

    # -- datagrams -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because the class of asyncio's own loop is not a subclass (3.11).
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        del addr  # the socket is connected
        association = self._association
        if association is None:
            self._message(data)
            return
        if look(data) is None:
            return
        for message in association.receive(data):
            self._message(message)
        self._after()

    def error_received(self, exc: Exception) -> None:
        """The system reports that no process listens there."""
        self._end(f"{self._endpoint} cannot be reached: {exc}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"The socket is closed: {exc}")

    def _message(self, message: bytes) -> None:
        exchanges = self._exchanges
        packet = None if exchanges is None else exchanges.receive(message, self._now_s())
        if packet is None or exchanges is None:
            return
        if not packet.is_response or not self.correlation.expects(packet):
            exchanges.refuse(packet)
            return
        exchanges.acknowledge(packet)
        opened = self._opened(packet)
        if opened is not None:
            self.correlation.take(opened)

    def _opened(self, packet: Packet) -> Packet | None:
        """The message in a datagram of the server; None without one."""
        return packet

    def _after(self) -> None:
        association, established = self._association, self._established
        assert association is not None
        assert established is not None
        if self._retransmission is not None:
            self._retransmission.cancel()
            self._retransmission = None
        if association.ended is not None:
            if self._secrets.token is not None and _REFUSED in association.ended and not established.done():
                established.set_exception(NotAuthenticated("The server refuses the key of the device token"))
                established.exception()
            self._end(f"{self._endpoint} has ended the association: {association.ended}")
            return
        if association.established and not established.done():
            established.set_result(None)
        wait_s = association.timeout_s
        if wait_s is not None:
            self._retransmission = asyncio.get_running_loop().call_later(wait_s + 0.001, self._retransmit)

    def _retransmit(self) -> None:
        assert self._association is not None
        self._retransmission = None
        self._association.retransmit()
        self._after()

    def _datagram(self, datagram: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if self._exchanges is not None:
                self._exchanges.tick(self._now_s())

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _end(self, why: str) -> None:
        if self._lost:
            return
        self._lost = True
        for timer in (self._retransmission, self._ticking):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.close()
        if self._established is not None:
            fail(self._established, why)
        self.correlation.end(why)
