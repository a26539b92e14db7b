"""Ports for programs that are told theirs before they listen.

A port that was free a moment ago may be another program's by the time the program that was told it has started: the
system gives it to the next that asks, a test beside this one or an outgoing connection. So it is held meanwhile by
a socket that is bound and never listens. The system does not give out such a port, and a program that sets
SO_REUSEADDR, as servers do, listens on it all the same (inet_csk_get_port in net/ipv4/inet_connection_sock.c).
"""

import atexit
import random
import socket
from collections import deque

#: Sockets that hold a port; the oldest is let go, for descriptors are few on some machines.
_MAX = 64
_held: deque[socket.socket] = deque()
#: Below what Linux, macOS and IANA (RFC 6335 §6) give out by themselves: a program has to ask for one.
_DATAGRAMS = range(20_000, 32_000)


def free_port() -> int:
    """A port of TCP on 127.0.0.1, for a program that sets SO_REUSEADDR."""
    holding = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind(("127.0.0.1", 0))
    _held.append(holding)
    if len(_held) > _MAX:
        _held.popleft().close()
    port: int = holding.getsockname()[1]
    return port


def free_datagram_port() -> int:
    """A port of UDP on 127.0.0.1: none can be held, so it is one that the system does not give out by itself."""
    for port in random.SystemRandom().sample(_DATAGRAMS, len(_DATAGRAMS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port is taken")


@atexit.register
def _let_go() -> None:
    while _held:
        _held.pop().close()
