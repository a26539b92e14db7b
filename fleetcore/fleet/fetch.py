"""Fetches a URL given by an operator, without letting it reach our own network (server-side request forgery).

The name is resolved once and every resulting address is checked; the connection goes only to a checked address,
redirects are not followed, and the size is bounded. ``ipaddress.is_global`` is not used: its answer differs between
releases of Python, and NAT64, 6to4 and other forms hide a private IPv4 address in a global-looking IPv6 one. The list
is our own.
"""

import asyncio
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing
from urllib.parse import SplitResult, urlsplit

from fleetcore import threads
from fleetcore.errors import Refused, Unavailable

_TIMEOUT_S = 30.0
_PIECE_BYTES = 1 << 20

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
#: Addresses outside the public internet: the IANA special-purpose registry (RFC 6890 and its updates), multicast,
#: reserved.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
#: All public IPv6 (RFC 4291 §2.4, IANA), and the exceptions within it.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")
)
#: Forms that contain an IPv4 address → the number of bits it is shifted by (RFC 4291 §2.5.5.2, RFC 6052, RFC 3056).
_EMBEDDING = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
_TEREDO = ipaddress.IPv6Network("2001::/32")
#: The middle of an ISATAP interface identifier (RFC 5214 §6.1), with and without the global bit.
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def is_public(address: IpAddress) -> bool:
    """Whether an address, and any IPv4 address inside it, belongs to the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    bits = int(address)
    for network, shift in _EMBEDDING:
        if address in network:
            return is_public(ipaddress.IPv4Address(bits >> shift & 0xFFFFFFFF))
    if address in _TEREDO:
        return False  # a tunnel through another server to the address in its other half
    if bits >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(ipaddress.IPv4Address(bits & 0xFFFFFFFF)):
        return False
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


def _resolve(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that is not valid in a name
        raise Unavailable(f"{host!r} cannot be resolved", code="not_ready", retry_after_s=60) from error
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        # An address with a zone belongs to a single link.
        if "%" in text or not is_public(ipaddress.ip_address(text)):
            raise Refused(
                f"{host!r} resolves to {text}, which is not a public address",
                code="url_forbidden",
                remedy="Upload the artifact to the fleet instead, or name a public host",
            )
    return addresses[0]


def check_url(url: str) -> tuple[SplitResult, str, int]:
    """A URL that may be fetched, with its host and port; raises Refused (``url_forbidden``).

    The host's addresses are checked at the fetch.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused(f"{url!r} is not a URL", code="url_forbidden") from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refused(f"{url!r} is not a URL", code="url_forbidden", remedy="Write other characters as %XX")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
        raise Refused(
            f"{url!r} cannot be fetched", code="url_forbidden", remedy="Use http or https, without credentials in it"
        )
    return parts, parts.hostname, port


def fetch(url: str, limit_bytes: int, resolve: Callable[[str, int], str] = _resolve) -> Iterator[bytes]:
    """Yields the body of ``url`` in pieces. Blocking: run it in a thread.

    Raises:
        Refused: ``url_forbidden`` (scheme, credentials in it, address, redirect) or ``limit_exceeded``.
        Unavailable: it cannot be reached or answers with an error.
    """
    parts, host, port = check_url(url)
    address = resolve(host, port)
    try:
        raw = socket.create_connection((address, port), _TIMEOUT_S)
    except OSError as error:
        raise Unavailable(f"{host!r} cannot be reached", code="not_ready", retry_after_s=60) from error
    with raw, ExitStack() as stack:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            connection.sock = (
                ssl.create_default_context().wrap_socket(raw, server_hostname=host) if parts.scheme == "https" else raw
            )
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            # It keeps the socket open besides the connection.
            response = stack.enter_context(closing(connection.getresponse()))
            if 300 <= response.status < 400:
                raise Refused(f"{url!r} redirects, and redirects are not followed", code="url_forbidden")
            if response.status != 200:
                raise Unavailable(f"{url!r} answers {response.status}", code="not_ready", retry_after_s=60)
            total, announced = 0, response.length
            while piece := response.read(_PIECE_BYTES):
                total += len(piece)
                if total > limit_bytes:
                    raise Refused(
                        f"{url!r} is longer than {limit_bytes} bytes",
                        code="limit_exceeded",
                        limit=limit_bytes,
                        unit="bytes",
                    )
                yield piece
            # http.client does not report a body that ends early when it is read in pieces.
            if announced is not None and total != announced:
                raise Unavailable(
                    f"{url!r} ends after {total} of {announced} bytes", code="not_ready", retry_after_s=60
                )
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{url!r} cannot be read: {error}", code="not_ready", retry_after_s=60) from error
        finally:
            connection.close()


async def fetch_in_thread(url: str, limit_bytes: int) -> AsyncIterator[bytes]:
    """Runs the blocking fetch in a daemon thread, at most two pieces ahead; an abandoned one ends at its next piece."""
    pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def put(piece: bytes | BaseException | None) -> None:
        while not stop.is_set():
            try:
                pieces.put(piece, timeout=0.5)
            except queue.Full:
                continue
            return

    def run() -> None:
        try:
            for piece in fetch(url, limit_bytes):
                put(piece)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it can be awaited
            put(error)

    threads.stop_at_exit(stop.set)
    threads.start(threading.Thread(target=run, name=f"fetch {url[:40]}", daemon=True), threads.PLUGIN_EXIT_S)
    try:
        while True:
            piece = await asyncio.to_thread(_get, pieces, stop)
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()


def _get(pieces: "queue.Queue[bytes | BaseException | None]", stop: threading.Event) -> bytes | BaseException | None:
    while not stop.is_set():
        try:
            return pieces.get(timeout=0.5)
        except queue.Empty:
            continue
    return None
