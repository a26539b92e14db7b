"""A client's connection to one server over TCP with TLS (RFC 8323), like :mod:`fleetcore_coap.channel` over DTLS."""

import asyncio
import ssl
from random import SystemRandom

from msgspec.structs import replace

from fleetcore.errors import ConfigError, Unavailable
from fleetcore.interfaces.protocol import DeviceSecrets
from fleetcore_coap.channel import ANSWER_S, HANDSHAKE_S
from fleetcore_coap.codec import Malformed, Packet
from fleetcore_coap.config import listener
from fleetcore_coap.correlation import Correlation
from fleetcore_coap.frames import CSM, PING, Frames, TooLong, capabilities, frame, pong

#: The maximum of an answer: longer than any body of the server, whose blocks have 1,024 bytes.
_LIMIT_BYTES = 1 << 20
_READ_BYTES = 64 * 1024


class StreamChannel:
    """Opened by :meth:`open`, closed by :meth:`close`. ``correlation`` has the waiting requests."""

    def __init__(self, endpoint: str, secrets: DeviceSecrets) -> None:
        self._endpoint, self._secrets = endpoint, secrets
        self.correlation = Correlation(SystemRandom())
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lost = self._closing = False

    @property
    def closing(self) -> bool:
        """Whether this side has closed it."""
        return self._closing

    async def open(self) -> None:
        """Connects; raises Unavailable without an answer, or if another server answers."""
        try:
            where = listener(self._endpoint)
            tls = self._secrets.tls() if where.tls else None
            if tls is not None:
                tls.set_alpn_protocols(["coap"])
            async with asyncio.timeout(HANDSHAKE_S):
                reader, self._writer = await asyncio.open_connection(where.host, where.port, ssl=tls)
        except (ConfigError, OSError, ssl.SSLError, TimeoutError) as error:
            raise Unavailable(f"{self._endpoint} cannot be reached: {error}", code="not_ready") from error
        self._writer.write(capabilities(_LIMIT_BYTES))
        self._reading = asyncio.get_running_loop().create_task(self._read(reader), name="CoAP client: stream")

    def close(self) -> None:
        """Closes; idempotent."""
        self._closing = True
        if self._reading is not None:
            self._reading.cancel()
        self._end("The client is closed")

    async def ask(self, packet: Packet, *, token: bytes | None = None) -> Packet:
        """Sends a request and returns its answer; raises Unavailable without one."""
        if self._writer is None or self._lost:
            raise Unavailable("The connection is lost", code="not_ready")
        token = self.correlation.new_token() if token is None else token
        with self.correlation.waiting(token) as answer:
            try:
                async with asyncio.timeout(ANSWER_S):
                    self._writer.write(frame(replace(packet, token=token)))
                    await self._writer.drain()
                    return await answer
            except (TimeoutError, OSError) as error:
                raise Unavailable(f"{self._endpoint} does not answer", code="not_ready") from error

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = Frames(_LIMIT_BYTES)
        why = "The connection is lost"
        try:
            while data := await reader.read(_READ_BYTES):
                for packet in frames.take(data):
                    self._heard(packet)
        except (Malformed, TooLong, OSError, ssl.SSLError) as error:
            why = f"The connection is lost: {error}"
        self._end(why)

    def _heard(self, packet: Packet) -> None:
        assert self._writer is not None
        if packet.code >= CSM:
            if packet.code == PING:
                self._writer.write(pong(packet))
            return
        self.correlation.take(packet)

    def _end(self, why: str) -> None:
        if self._lost:
            return
        self._lost = True
        if self._writer is not None:
            self._writer.close()
        self.correlation.end(why)
