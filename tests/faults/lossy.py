"""A network in user space that loses, repeats, delays and so reorders datagrams, as its seed says."""

import asyncio
import random
import socket
from contextlib import asynccontextmanager, suppress

#: Of a datagram: that it is lost, comes twice, or comes late.
LOST, REPEATED, LATE = 0.12, 0.12, 0.3
#: Longer than the datagrams that follow take.
LATE_S = 0.03


class LossyNetwork:
    """Between clients that send to ``port`` and a server; made by :func:`lossy`.

    Attributes:
        port: where clients send to, on 127.0.0.1.
        lost, repeated, late: how many datagrams met with which fate.
        down: nothing passes.
    """

    def __init__(self, server, seed):
        self._loop, self._server, self._random = asyncio.get_running_loop(), server, random.Random(seed)
        self._near = self._socket(("127.0.0.1", 0))
        self._far = {}
        self.port = self._near.getsockname()[1]
        self.lost = self.repeated = self.late = 0
        self.down = False
        self._loop.add_reader(self._near, self._from_client)

    def _socket(self, address):
        each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        each.bind(address)
        each.setblocking(False)
        return each

    def _from_client(self):
        datagram, client = self._near.recvfrom(2048)
        if client not in self._far:
            self.move(client)
        self._carry(lambda: self._far[client].send(datagram))

    def _from_server(self, client, far):
        try:
            datagram = far.recv(2048)
        except OSError:  # nobody listens there now
            return
        self._carry(lambda: self._near.sendto(datagram, client))

    def move(self, client=None):
        """A client, or each, has another port from now on, as when a NAT has forgotten the way."""
        for each in [client] if client is not None else list(self._far):
            far = self._socket(("127.0.0.1", 0))
            far.connect(self._server)
            if each in self._far:
                self._loop.remove_reader(self._far[each])
                self._far[each].close()
            self._far[each] = far
            self._loop.add_reader(far, self._from_server, each, far)

    def _carry(self, send):
        if self.down or self._random.random() < LOST:
            self.lost += 1
            return
        times = 1
        if self._random.random() < REPEATED:
            self.repeated += 1
            times = 2
        for _ in range(times):
            wait_s = 0.0
            if self._random.random() < LATE:
                self.late += 1
                wait_s = self._random.uniform(0.0, LATE_S)
            self._loop.call_later(wait_s, self._send, send)

    @staticmethod
    def _send(send):
        with suppress(OSError):
            send()

    def close(self):
        for each in (self._near, *self._far.values()):
            self._loop.remove_reader(each)
            each.close()


@asynccontextmanager
async def lossy(port, seed):
    """The network before the server at ``port`` of 127.0.0.1, for the block."""
    network = LossyNetwork(("127.0.0.1", port), seed)
    try:
        yield network
    finally:
        network.close()
