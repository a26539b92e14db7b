"""Ports for programs that must know their port before they listen.

A port that was free a moment ago may be in use when the program has started: the system gives it to the next request,
of another test or an outgoing connection. So it is held meanwhile by a socket that is bound and never listens. The
system does not give out such a port, and a program with SO_REUSEADDR, as servers have, can still listen on it
(inet_csk_get_port in net/ipv4/inet_connection_sock.c).
"""

import atexit
import random
import re
import socket
from collections import deque
from collections.abc import Mapping

#: Sockets that hold a port; the oldest is closed, because some machines have few descriptors.
_MAX = 64
_held: deque[socket.socket] = deque()
#: Below the ports that Linux, macOS and IANA (RFC 6335 §6) give out automatically: a program must request one.
_DATAGRAMS = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port on 127.0.0.1, for a program with SO_REUSEADDR."""
    holding = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holding.bind(("127.0.0.1", 0))
    _held.append(holding)
    if len(_held) > _MAX:
        _held.popleft().close()
    port: int = holding.getsockname()[1]
    return port


def free_datagram_port() -> int:
    """A UDP port on 127.0.0.1: it cannot be held, so it is one that the system does not give out automatically."""
    for port in random.SystemRandom().sample(_DATAGRAMS, len(_DATAGRAMS)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port is in use")


@atexit.register
def _let_go() -> None:
    while _held:
        _held.pop().close()


def moved(text: str, ports: Mapping[str, object]) -> str:
    """A text with other ports in place of those that it names; each place is changed only once.

    A port that is a part of a longer number or of a hexadecimal one is left.
    """
    named = re.compile(rf"(?<![0-9a-f])(?:{'|'.join(ports)})(?![0-9a-f])")
    return named.sub(lambda found: str(ports[found[0]]), text)
