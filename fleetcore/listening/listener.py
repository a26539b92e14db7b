"""A listener: accepts connections within its share, orders TLS handshakes, and disconnects peers that do not read.

A connection passes three stages. Until its first byte it costs only a descriptor. Then it waits for its turn to shake
hands; its deadline begins with the turn, so that the server's own load does not count against it. A slow handshake
passes its turn on after a moment and continues beside the others, and addresses take turns: stalled peers delay only
connections from their own address. Then the connection belongs to its protocol. While the budget is used up,
connections wait unaccepted.
"""

import asyncio
import asyncio.sslproto
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from functools import partial
from ssl import SSLContext
from typing import Any, cast

from fleetcore.listening.addresses import network
from fleetcore.listening.budget import Budget
from fleetcore.listening.lateness import Ticking, sweeps
from fleetcore.listening.turns import Turns
from fleetcore.listening.unread import UnreadWatch

#: Connections that the system queues until they are accepted; the system's own limit applies too.
_BACKLOG = 4096
#: Connections accepted in one turn of the loop.
_AT_ONCE = 64
#: A slow handshake keeps its turn for this long: a few round trips over the internet.
_TURN_S = 0.25
#: In one sweep, one connection of this many is asked whether its peer reads: it costs a system call.
_ASKED_EVERY = 8
#: How long a peer may take to answer our close_notify; most devices do not answer.
TLS_CLOSE_S = 2.0
#: One TLS record (RFC 8446 §5.1). asyncio's default keeps 256 KiB a connection: 2.6 GB for 10,000 devices.
_TLS_BUFFER_BYTES = 16_384
#: How long to wait after the system had no descriptor or memory for another connection.
_SHORT_S = 1.0
_SHORT = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})


class _Peer:
    """A connection from its acceptance to its end."""

    __slots__ = ("address", "ended", "greeting", "number", "socket", "transport", "unread", "until_s")

    def __init__(self, connection: socket.socket, address: str, until_s: float, number: int) -> None:
        self.socket, self.address, self.until_s, self.number = connection, address, until_s, number
        self.transport: asyncio.Transport | None = None
        self.greeting: asyncio.Task[None] | None = None
        self.unread = UnreadWatch()
        self.ended = False


class Listener:
    """Open from :meth:`open` to :meth:`close`; made with the sockets that it listens on.

    Args:
        name: the section's name, for logs and metrics.
        protocol: makes the protocol of a connection; the protocol calls its argument in ``connection_lost``.
        tls: the context of a listener with TLS.
    """

    def __init__(
        self,
        name: str,
        sockets: Sequence[socket.socket],
        protocol: Callable[[Callable[[], None]], asyncio.BaseProtocol],
        budget: Budget,
        clock: Ticking,
        *,
        tls: SSLContext | None = None,
    ) -> None:
        self.name, self.sockets = name, tuple(sockets)
        self.limits = budget.limits
        self._protocol, self._budget, self._clock, self._tls = protocol, budget, clock, tls
        self._loop = asyncio.get_running_loop()
        self.turns = Turns(self.limits.handshakes)
        self._peers: set[_Peer] = set()
        self._share = budget.enter(name, self._accept_on)
        self._accepting = self._closed = False
        self._accepted_so_far = 0
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Connections in all three stages."""
        return len(self._peers)

    def open(self) -> None:
        """Listens."""
        if self._tls is not None:
            # A class attribute, read when a connection is made: asyncio takes no parameter for it.
            cast("Any", asyncio.sslproto.SSLProtocol).max_size = _TLS_BUFFER_BYTES
        for each in self.sockets:
            each.setblocking(False)
            each.listen(_BACKLOG)
        self._accept_on()
        self._sweeper = self._loop.create_task(self._sweep(), name=f"{self.name}: listener")

    def close(self) -> None:
        """Stops accepting, and closes connections that have not reached their protocol; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._stop_accepting()
        for each in self.sockets:
            each.close()
        for peer in tuple(self._peers):
            if peer.greeting is not None:
                peer.greeting.cancel()
            elif peer.transport is None:
                self._loop.remove_reader(peer.socket)
                self._gone(peer)
        if not self._peers:
            self._end()

    async def wait_closed(self) -> None:
        """Returns once no connection is on its way to its protocol."""
        greetings = [peer.greeting for peer in self._peers if peer.greeting is not None]
        await asyncio.gather(*greetings, return_exceptions=True)
        self._end()

    def _end(self) -> None:
        """Closed, and its connections are gone, or are their protocols' affair."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
            self._budget.leave(self._share)

    # -- accepting ------------------------------------------------------------------------------------------------

    def _accept_on(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            for each in self.sockets:
                self._loop.add_reader(each, self._accept, each)

    def _stop_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for each in self.sockets:
                self._loop.remove_reader(each)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._share.has_room():
                self._stop_accepting()
                return
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in _SHORT:
                    raise
                self._share.note(
                    "descriptors", f"the system has no more ({error.strerror}); the reserve may be too small"
                )
                self._stop_accepting()
                self._loop.call_later(_SHORT_S, self._accept_on)
                return
            self._accepted(connection, network(str(address[0])))

    def _accepted(self, connection: socket.socket, address: str) -> None:
        if not self._share.enter(address):
            connection.close()
            return
        connection.setblocking(False)
        # Detects a dead peer, also where the protocol has no keep-alive.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._accepted_so_far += 1
        until_s = self._clock.monotonic_s() + self.limits.head_s
        peer = _Peer(connection, address, until_s, self._accepted_so_far)
        self._peers.add(peer)
        if self._tls is None:
            self._greet(peer)
        else:
            self._loop.add_reader(connection, self._speaks, peer)

    def _speaks(self, peer: _Peer) -> None:
        """The first byte is there, or the peer has left, which the handshake finds out."""
        self._loop.remove_reader(peer.socket)
        self._greet(peer)

    def _greet(self, peer: _Peer) -> None:
        peer.until_s = float("inf")  # it waits for us now
        peer.greeting = self._loop.create_task(self._greeting(peer), name=f"{self.name}: handshake")

    async def _greeting(self, peer: _Peer) -> None:
        turn = None if self._tls is None else await self._turn(peer)
        try:
            peer.transport, _ = await self._loop.connect_accepted_socket(
                partial(self._protocol, partial(self._gone, peer)),
                peer.socket,
                ssl=self._tls,
                # The sweep enforces the deadline: a timer of the loop would count the loop's own delay.
                ssl_handshake_timeout=None if self._tls is None else self.limits.handshake_s * 100,
                ssl_shutdown_timeout=None if self._tls is None else TLS_CLOSE_S,
            )
        except (OSError, EOFError, RuntimeError):
            pass  # the peer left, or its handshake failed: the certificate check reports why
        finally:
            peer.greeting = None
            if turn is not None:
                turn.end()
            if peer.transport is None:
                self._gone(peer)

    async def _turn(self, peer: _Peer) -> Any:
        try:
            turn = await self.turns.take(peer.address)
        except asyncio.CancelledError:
            peer.greeting = None
            self._gone(peer)
            raise
        peer.until_s = self._clock.monotonic_s() + self.limits.handshake_s
        self._loop.call_later(_TURN_S, turn.end)
        return turn

    def _gone(self, peer: _Peer) -> None:
        if peer.ended:
            return
        peer.ended = True
        self._peers.discard(peer)
        if peer.transport is None:
            with suppress(OSError):
                peer.socket.close()
        self._share.leave(peer.address)
        if self._closed and not self._peers:
            self._end()

    # -- deadlines ------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        every = max(1, min(_ASKED_EVERY, int(self.limits.unread_s / 4)))
        sweep = 0
        async for now in sweeps(self._clock):
            sweep += 1
            for peer in tuple(self._peers):
                if peer.transport is None or peer.number % every == sweep % every:
                    self._judge(peer, now)

    def _judge(self, peer: _Peer, now_s: float) -> None:
        if peer.transport is not None:
            # The system's own clock, because the queue is the system's.
            if peer.unread.overdue(peer.transport, time.monotonic(), self.limits.unread_s):
                self._share.note("unread_s", "a peer that read nothing of what it was sent is disconnected")
                peer.transport.abort()
        elif now_s < peer.until_s:
            return
        elif peer.greeting is not None:
            self._share.note("handshake_s", "a TLS handshake took too long and is disconnected")
            peer.greeting.cancel()
        else:
            self._share.note("head_s", "a peer that connected and sent nothing is disconnected")
            self._loop.remove_reader(peer.socket)
            self._gone(peer)
