"""The sockets of a listener: the addresses that a host in fleet.toml stands for."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from errno import EADDRINUSE, EAFNOSUPPORT
from typing import Any

from fleetcore.errors import NotReady

#: A port that the system chose for one address may be taken at the next one: then another is tried.
_ATTEMPTS = 8

_Address = tuple[int, tuple[Any, ...]]


def open_sockets(url: str, host: str, port: int, *, datagrams: bool = False) -> list[socket.socket]:
    """The sockets of :func:`bind` for the listener at ``url``; raises NotReady where the address cannot be bound."""
    try:
        return bind(host, port, datagrams=datagrams)
    except OSError as error:
        raise NotReady(
            f"{url} cannot be bound: {error.strerror or error}", remedy="Choose a free port and a local address"
        ) from error


def names(host: str, sockets: Sequence[socket.socket]) -> list[str]:
    """``host:port`` of the sockets, as URLs write it: the configured host where all have one port."""
    bound = [each.getsockname()[:2] for each in sockets]
    if len({port for _, port in bound}) == 1:
        bound = [(host, bound[0][1])]
    return [f"{f'[{name}]' if ':' in name else name}:{port}" for name, port in bound]


def bind(host: str, port: int, *, datagrams: bool = False) -> list[socket.socket]:
    """Sockets bound to every address of a host, all on one port; raises OSError.

    ``::`` and an empty host are every address of this machine, IPv6 and IPv4; ``0.0.0.0`` is IPv4 alone. An empty host
    leaves IPv6 out where the system lacks it. The sockets are TCP, or UDP with ``datagrams``.
    """
    # Two sockets, not one for both: an IPv4 peer keeps its own address, which networks and limits are compared with.
    found: list[_Address] = [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - as configured
    if host not in {"", "::"}:
        answers = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found = list(dict.fromkeys((family, address) for family, _, _, _, address in answers))
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _bind(found, port, ipv6_optional=not host, datagrams=datagrams)
        except OSError as error:
            if port or error.errno != EADDRINUSE or attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _bind(addresses: Sequence[_Address], port: int, *, ipv6_optional: bool, datagrams: bool) -> list[socket.socket]:
    bound: list[socket.socket] = []
    with ExitStack() as opened:
        for family, (name, _, *rest) in addresses:
            try:
                # Given by name, because asyncio turns Nagle's algorithm off only then; otherwise answers wait 40 ms.
                each = (
                    socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
                    if datagrams
                    else socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
                )
            except OSError as error:
                if ipv6_optional and family == socket.AF_INET6 and error.errno == EAFNOSUPPORT:
                    continue
                raise
            opened.callback(each.close)
            if not datagrams:  # two UDP sockets with it would have one port, and each would get a part of the datagrams
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((name, port or (bound[0].getsockname()[1] if bound else 0), *rest))
            bound.append(each)
        opened.pop_all()
    return bound
