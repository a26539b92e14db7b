"""The link: one connection to the core, opened again whenever it is lost."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from attrs import frozen

from fleetcore.errors import FleetError, NotAuthenticated, NotAuthorised, Unavailable, is_temporary
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.protocol import DeviceClient
from fleetcore.interfaces.waits import end_task, first_of
from fleetcore.model.message import Downlink, MessageType, Reply
from fleetcore.wire import messages
from fleetcore.wire.replies import error_of

_log = logging.getLogger(__name__)

#: The waits between attempts to connect, s; each is drawn between half of it and the whole, so that the gateways of a
#: site do not come back together.
_WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: How long a connection must have lasted for the next attempt to count as the first.
_HEALTHY_S = 30.0
#: The wait where the core refuses for now and does not say for how long.
_AGAIN_S = 1.0
#: After so many faults of the core by one message, some minutes, it is given up: a fault may be of this message alone.
_FAULTS = 8
#: The longest message, bytes: below the core's default limit of 256 KiB, with room for what stands around the body.
_MESSAGE_BYTES = 192 * 1024


@frozen(kw_only=True)
class LinkState:
    """What is known of the link.

    Attributes:
        since_ms: of the present state, ms since the epoch.
        error: why it is not connected, or empty.
    """

    connected: bool = False
    since_ms: int = 0
    error: str = ""


class Link:
    """Sends messages once there is a connection, and passes on what the core sends.

    Args:
        client: opens a client with the current credentials.
        heard: handles a downlink; it must not raise.
        came: called after each connection, before messages are sent over it.
        greet: awaited before that; where it gives False, the connection is opened again at once.
        refused: called where the core refuses the credentials.

    Attributes:
        connections: so far.
        taken_over: those of them that another one with this identity has replaced.
        message_bytes: what a message may have, as far as is known; see :mod:`fleetcore_edge.uplink.fitting`.
    """

    def __init__(
        self,
        client: Callable[[], DeviceClient],
        clock: Clock,
        *,
        heard: Callable[[Downlink], Awaitable[None]],
        came: Callable[[], None],
        greet: Callable[[DeviceClient], Awaitable[bool]] | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._open, self._clock, self._heard, self._came, self._refused = client, clock, heard, came, refused
        self._greet = greet
        self._client: DeviceClient | None = None
        self._there, self._gone = asyncio.Event(), asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self.state = LinkState(since_ms=clock.now_ms())
        self.connections = self.taken_over = 0
        self.message_bytes = _MESSAGE_BYTES

    async def run(self) -> None:
        """Keeps the connection until cancelled."""
        failures = 0
        while True:
            begun = self._clock.monotonic_s()
            try:
                async with self._connected() as client:
                    if client is None:
                        continue
                    await self._listen(client)
                    error = self._why(client)
            except (NotAuthenticated, NotAuthorised) as raised:
                error = str(raised)
                self._refused()
            except (FleetError, OSError, TimeoutError) as raised:
                error = str(raised)
            failures = 0 if self._clock.monotonic_s() - begun >= _HEALTHY_S else failures
            if self.state.connected or self.state.error != error:
                _log.warning("No connection to the core: %s", error)
                self.state = LinkState(since_ms=self._clock.now_ms(), error=error)
            wait = _WAITS_S[min(failures, len(_WAITS_S) - 1)]
            failures += 1
            await self._clock.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads gateways, hides nothing

    def _why(self, client: DeviceClient) -> str:
        """Why a connection has ended."""
        if client.ended != "session_taken_over":
            return "The connection was closed"
        self.taken_over += 1
        return "Another agent has connected with this gateway's identity. Stop it, or enrol it as a gateway of its own"

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[DeviceClient | None]:
        async with self._open() as client:
            if self._greet is not None and not await self._greet(client):
                yield None
                return
            self._client = client
            self.connections += 1
            self.state = LinkState(connected=True, since_ms=self._clock.now_ms())
            _log.info("Connected to the core")
            self._came()
            self._gone.clear()
            self._there.set()
            try:
                yield client
            finally:
                self._there.clear()
                self._gone.set()
                self._client = None

    async def _listen(self, client: DeviceClient) -> None:
        reading = asyncio.create_task(self._read(client), name="uplink downlinks")
        self._listening = reading
        try:
            # It makes the core send everything that waits for the gateway and its leaves.
            reply = await client.send(messages.STATUS, {"state": "online"})
            if reply.error is not None:
                raise error_of(reply)
            await asyncio.wait({reading})
        finally:
            self._listening = None
            await end_task(reading)

    async def _read(self, client: DeviceClient) -> None:
        async for downlink in client.downlinks():
            await self._heard(downlink)

    def reconnect(self) -> None:
        """Closes the connection and opens another one, with the present credentials."""
        if self._listening is not None:
            self._listening.cancel()

    async def connected(self) -> None:
        """Returns once there is a connection."""
        await self._there.wait()

    async def send(
        self, type: MessageType, body: object, *, subject: str | None = None, target: str | None = None
    ) -> Reply:
        """Sends a message until the core has committed or refused it; waits for a connection as long as it takes.

        The reply is final: a refusal for now, such as too many messages, is tried again after the time that the core
        names, and a fault of the core for some minutes. The core may get a message twice where the connection broke
        before its answer.
        """
        return await self._until_final(lambda client: client.send(type, body, subject=subject, target=target))

    async def request(self, type: MessageType, body: object = None, *, subject: str | None = None) -> Reply:
        """The same for a call, which is answered with content."""
        return await self._until_final(lambda client: client.request(type, body, subject=subject))

    async def artifact(self, sha256: str, start: int = 0, subject: str | None = None) -> AsyncIterator[bytes]:
        """The bytes of an artifact. Raises Unavailable where the connection breaks, and what the core refuses."""
        await self._there.wait()
        if self._client is None:
            raise Unavailable("The connection to the core is lost", code="not_ready")
        async for piece in self._client.artifact(sha256, start, subject=subject):
            yield piece

    async def _until_final(self, send: Callable[[DeviceClient], Awaitable[Reply]]) -> Reply:
        faults = 0
        while True:
            await self._there.wait()
            client = self._client
            if client is None:
                continue
            try:
                reply = await send(client)
            except Unavailable:
                # Lost, or about to be: the link notices, and connects again. It may also have been this message alone.
                await first_of(self._gone.wait(), self._clock.sleep(_AGAIN_S))
                continue
            if reply.error is None:
                return reply
            code = str(reply.error.get("code"))
            if code == "internal" and faults < _FAULTS:
                await self._clock.sleep(_WAITS_S[min(faults, len(_WAITS_S) - 1)])
                faults += 1
                continue
            if not is_temporary(code):
                return reply
            wait = reply.error.get("retry_after_s")
            await self._clock.sleep(float(wait) if isinstance(wait, int | float) else _AGAIN_S)
