"""UDP sockets that read many datagrams in one turn of the loop.

asyncio's datagram transports read one datagram per turn.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from fleetcore_coap.addresses import Address

#: Datagrams read in one turn of the loop.
_AT_ONCE = 64
#: More than a packet of common networks; a longer datagram is truncated, and so never a series of whole records.
_MAX_BYTES = 2048
#: The requested size of the system's buffer; the system may give less. The default has room for some 250 datagrams, and
#: a reconnecting fleet sends thousands at once.
_RECEIVE_BYTES = 4 << 20
#: Linux: only groups that this socket has joined (ip(7), ipv6(7)); without it a socket on a wildcard address receives
#: what any program on the machine has joined, and multicast is not answered.
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29


class Datagrams:
    """Open from creation to :meth:`close`.

    Args:
        received: called with the number of the socket, the address, and the datagram.
    """

    def __init__(self, sockets: Sequence[socket.socket], received: Callable[[Address, bytes], None]) -> None:
        self.sockets = tuple(sockets)
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._reading = True
        self._closed = False
        for number, each in enumerate(self.sockets):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            with suppress(OSError):  # not on every system
                if each.family == socket.AF_INET6:
                    each.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
                else:
                    each.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            self._loop.add_reader(each, self._read, number)

    def stop_reading(self) -> None:
        """Stops reading; idempotent."""
        if self._reading:
            self._reading = False
            for each in self.sockets:
                self._loop.remove_reader(each)

    def send(self, address: Address, datagram: bytes) -> None:
        """Sends a datagram; if the system has no room it is lost, and repeated if needed."""
        if self._closed:
            return
        number = address[0]
        assert isinstance(number, int)
        with suppress(OSError):
            self.sockets[number].sendto(datagram, address[1])  # type: ignore[call-overload]  # as recvfrom gave it

    def close(self) -> None:
        """Closes the sockets; idempotent."""
        self.stop_reading()
        self._closed = True
        for each in self.sockets:
            each.close()

    def _read(self, number: int) -> None:
        for _ in range(_AT_ONCE):
            if not self._reading:  # a received datagram stopped the reading
                return
            try:
                datagram, address = self.sockets[number].recvfrom(_MAX_BYTES)
            except OSError:
                return
            self._received((number, address), datagram)
