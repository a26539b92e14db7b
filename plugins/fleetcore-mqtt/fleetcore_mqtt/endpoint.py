"""The MQTT endpoint: fleetcore's own listener, which devices connect to without a broker.

It keeps who is connected, takes over from an earlier connection of the same device, sweeps idle ones and ends them
all. What a connection says is in :mod:`.connection`. It is no broker: nothing is retained and nothing is routed
from one device to another.
"""

import asyncio
import asyncio.sslproto
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import Any, cast

from fleetcore.errors import ConfigError, NotReady
from fleetcore.interfaces import Context, DevicePlane, Ingest, ProtocolAdapter
from fleetcore_mqtt.addresses import Address, read_address
from fleetcore_mqtt.connection import LINGER_S, factory
from fleetcore_mqtt.framing import PACKET_BYTES
from fleetcore_mqtt.host import HostedConnection
from fleetcore_mqtt.limiter import ConnectionLimiter
from fleetcore_mqtt.packets import Reason
from fleetcore_mqtt.sessions import Sessions

#: asyncio of CPython 3.11 allocates 256 KiB per TLS connection; this is one TLS record. At 500 connections it took
#: 158 MB down to 51 MB.
TLS_READ_BYTES = 16_384
#: A handshake that takes longer is cut off.
HANDSHAKE_S = 10.0
_SWEEP_S = 1.0
_OVERHEAD_BYTES = PACKET_BYTES - 256 * 1024


class Endpoint(ProtocolAdapter):
    """The open listener and its connections."""

    def __init__(self, context: Context, plane: DevicePlane, ingest: Ingest, *, in_flight: int) -> None:
        self.plane, self.ingest = plane, ingest
        self.clock = context.clock
        self.logger = context.logger
        self.name = context.name
        self.count = context.count
        self.message_bytes = context.limits.message_bytes
        self.packet_bytes = context.limits.message_bytes + _OVERHEAD_BYTES
        self.in_flight = in_flight
        self.sessions = Sessions(context.clock.monotonic_s)
        self.claimants = ConnectionLimiter()
        self._server: asyncio.Server | None = None
        self._endpoints: tuple[str, ...] = ()
        self._all: set[HostedConnection] = set()
        self._by_device: dict[str, HostedConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()

    # -- ProtocolAdapter ------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    @property
    def connections(self) -> int:
        return len(self._all)

    async def drain(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in self._all:
            connection.drain()
        # Looked at rather than signalled: a signal would cost every message something for the sake of the last ones.
        while any(connection.busy for connection in self._all):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)

    # -- Host -----------------------------------------------------------------------------------------------------

    def opened(self, connection: HostedConnection) -> None:
        """Counts the connection in."""
        self._all.add(connection)

    def authenticated(self, device: str, connection: HostedConnection) -> None:
        """The newest connection of a device stands; the earlier one is told that it was taken over."""
        earlier = self._by_device.get(device)
        if earlier is not None:
            earlier.end(Reason.TAKEN_OVER)
        self._by_device[device] = connection

    def lost(self, connection: HostedConnection) -> None:
        """Counts the connection out."""
        self._all.discard(connection)
        if self._by_device.get(connection.identity) is connection:
            del self._by_device[connection.identity]
        if not self._all:
            self._emptied.set()

    def current(self, device: str) -> HostedConnection | None:
        """The connection that speaks for ``device``, or None."""
        return self._by_device.get(device)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs ``work`` as a task of this endpoint; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("%s failed", task.get_name(), exc_info=error)

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self, url: str, context: Context) -> None:
        """Listens; raises ConfigError for a URL it will not listen on and NotReady where the address is taken."""
        address = read_address(url)
        tls = _server_tls(address, context)
        if tls is not None:
            # A class attribute, read when a connection is made; there is no parameter for it.
            cast("Any", asyncio.sslproto.SSLProtocol).max_size = TLS_READ_BYTES
        try:
            self._server = await asyncio.get_running_loop().create_server(
                factory(self),
                address.host,
                address.port,
                ssl=tls,
                backlog=1024,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_S,
                ssl_shutdown_timeout=None if tls is None else LINGER_S,
            )
        except OSError as error:
            raise NotReady(f"cannot listen on {url}: {error}", remedy="Free the port or choose another") from error
        names = [each.getsockname()[:2] for each in self._server.sockets]
        self._endpoints = tuple(
            f"{'mqtts' if address.secure else 'mqtt'}://{f'[{name}]' if ':' in name else name}:{number}"
            for name, number in names
        )
        for each in self._server.sockets:
            # Accepted sockets inherit it: a 3.1.1 client without a keep alive is noticed when it is gone.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    async def sweep(self) -> None:
        """Runs for ever: what has waited too long ends within a second after its time."""
        while True:
            await self.clock.sleep(_SWEEP_S)
            now_s = self.clock.monotonic_s()
            for connection in tuple(self._all):
                connection.sweep(now_s)

    async def close(self) -> None:
        """Ends every connection with a word, then without."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._all):
            connection.end(Reason.SHUTTING_DOWN)
        if self._all:
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), LINGER_S)
            for connection in tuple(self._all):
                connection.abort()
            await asyncio.sleep(0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _server_tls(address: Address, context: Context) -> SSLContext | None:
    """The TLS context of a listener, or None for a plain one."""
    if not address.secure:
        return None
    if context.tls is None:
        raise ConfigError(
            "mqtts:// needs certificates and this fleet has none",
            remedy="Run `fleetcore init`, or listen on mqtt://127.0.0.1",
        )
    return context.tls.server()


@asynccontextmanager
async def open_endpoint(
    url: str, context: Context, plane: DevicePlane, ingest: Ingest, *, in_flight: int
) -> AsyncIterator[Endpoint]:
    """Listens on ``url`` while the context lasts."""
    endpoint = Endpoint(context, plane, ingest, in_flight=in_flight)
    await endpoint.start(url, context)
    sweeper = asyncio.get_running_loop().create_task(endpoint.sweep(), name=f"{context.name} sweep")
    try:
        yield endpoint
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await endpoint.close()
