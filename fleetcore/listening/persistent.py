"""Connections that devices keep open: identity, takeover, deadlines, draining and closing.

For the protocols of MQTT and WebSocket. A subclass says what is sent on a connection and how it is closed.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from logging import Logger
from ssl import SSLContext
from typing import Any, Generic, Protocol, Self, TypeVar

from fleetcore.listening.budget import Budget
from fleetcore.listening.lateness import Ticking, sweeps
from fleetcore.listening.listener import Listener
from fleetcore.listening.sockets import names, open_sockets
from fleetcore.listening.tasks import Tasks


class PersistentConnection(Protocol):
    """A connection as :class:`PersistentConnections` uses it."""

    @property
    def identity(self) -> str:
        """The device, or empty before it is authenticated."""

    @property
    def busy(self) -> bool:
        """Whether a request was read and is not answered yet."""

    def drain(self) -> None:
        """Stops reading; what was read is answered."""

    def sweep(self, now_s: float) -> None:
        """Closes the connection if a deadline has passed at this moment of the monotonic clock."""

    def abort(self) -> None:
        """Closes the transport at once, without a closing message."""


C = TypeVar("C", bound=PersistentConnection)
H_contra = TypeVar("H_contra", bound=PersistentConnection, contravariant=True)


class PersistentHost(Protocol[H_contra]):
    """The set of connections, as a connection uses it; :class:`PersistentConnections` implements it."""

    def opened(self, connection: H_contra) -> None:
        """Adds a connection whose transport is open."""

    def authenticated(self, device: str, connection: H_contra) -> None:
        """Gives the connection to ``device``: its newest connection stays, an earlier one is closed."""

    def lost(self, connection: H_contra) -> None:
        """Removes a connection whose transport is closed."""

    def is_connected(self, device: str) -> bool:
        """Whether ``device`` is connected."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs ``work`` until it ends or the connections close; its errors are logged."""


class PersistentConnections(PersistentHost[C], ABC, Generic[C]):
    """Open within :meth:`listening`; everything runs on the loop that it is made in.

    Args:
        name: the instance's name, for tasks, logs and metrics.
        closing_s: how long a connection may take to end after it was asked to.
    """

    def __init__(self, name: str, budget: Budget, clock: Ticking, logger: Logger, *, closing_s: float) -> None:
        self.name, self.logger = name, logger
        self._clock, self._budget, self._closing_s = clock, budget, closing_s
        self._listener: Listener | None = None
        self._endpoints: tuple[str, ...] = ()
        self._all: set[C] = set()
        self._by_device: dict[str, C] = {}
        self._tasks = Tasks(logger)
        self._emptied = asyncio.Event()

    # -- what the protocol defines --------------------------------------------------------------------------------

    @abstractmethod
    def connection(self, lost: Callable[[], None]) -> asyncio.BaseProtocol:
        """Makes the protocol of an accepted transport; it calls ``lost`` when it ends."""

    @abstractmethod
    def replace(self, earlier: C) -> None:
        """Closes a connection whose device has a newer one."""

    @abstractmethod
    def dismiss(self, connection: C) -> None:
        """Closes a connection because the server stops."""

    # -- what the connections report ------------------------------------------------------------------------------

    def opened(self, connection: C) -> None:
        self._all.add(connection)

    def authenticated(self, device: str, connection: C) -> None:
        earlier = self._by_device.get(device)
        self._by_device[device] = connection
        if earlier is not None:
            self.replace(earlier)

    def lost(self, connection: C) -> None:
        self._all.discard(connection)
        if self._by_device.get(connection.identity) is connection:
            del self._by_device[connection.identity]
        if not self._all:
            self._emptied.set()

    def is_connected(self, device: str) -> bool:
        return device in self._by_device

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.spawn(work, name)

    # -- opening and closing --------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Sequence[str]:
        """The URLs of the listening sockets, with port 0 replaced by the real port."""
        return self._endpoints

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._all)

    @asynccontextmanager
    async def listening(
        self, url: str, host: str, port: int, tls: SSLContext | None, path: str = ""
    ) -> AsyncIterator[Self]:
        """Listens while the context lasts, then closes every connection, first with a closing message, then without.

        :attr:`endpoints` have the scheme of ``url``, then host and port, then ``path``. Raises NotReady where the
        address cannot be bound.
        """
        sockets = open_sockets(url, host, port)
        self._listener = Listener(self.name, sockets, self.connection, self._budget, self._clock, tls=tls)
        self._listener.open()
        scheme = url.partition(":")[0]
        self._endpoints = tuple(f"{scheme}://{name}{path}" for name in names(host, sockets))
        sweeper = asyncio.get_running_loop().create_task(self._sweep(), name=f"{self.name}: sweep")
        try:
            yield self
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            await self.close()

    async def drain(self) -> None:
        """Stops accepting and reading; returns once what was read is answered."""
        if self._listener is not None:
            self._listener.close()
        for connection in self._all:
            connection.drain()
        # Polled, not signalled: a signal would cost something at every message for the sake of the last ones.
        while any(connection.busy for connection in self._all):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)

    async def _sweep(self) -> None:
        """Closes connections within a second of their deadlines."""
        async for now_s in sweeps(self._clock):
            for connection in tuple(self._all):
                connection.sweep(now_s)

    async def close(self) -> None:
        """Closes every connection, first with a closing message, then without; :meth:`listening` calls it."""
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self._all):
            self.dismiss(connection)
        if self._all:
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), self._closing_s)
            for connection in tuple(self._all):
                connection.abort()
            await asyncio.sleep(0)
        await self._tasks.end()
        if self._listener is not None:
            await self._listener.wait_closed()
