"""Fetches a URL that a person gave, without letting it reach our own network (server-side request forgery).

Every address the name resolves to is judged, the connection goes to a judged address and nowhere else, redirects are
not followed, and the size is bounded. ``ipaddress.is_global`` alone is not enough: NAT64, 6to4 and IPv4-mapped forms
hide a private address in a global-looking one (RFC 6052, RFC 3056, RFC 4291 §2.5.5).
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from fleetcore.errors import Refused, Unavailable

_TIMEOUT_S = 30.0
_PIECE_BYTES = 1 << 20

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_6TO4 = ipaddress.IPv6Network("2002::/16")
_PROTOCOL_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")  # RFC 6890; is_global differs by Python release


def is_public(address: IpAddress) -> bool:
    """Whether an address, and any IPv4 address inside it, is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    elif address in _PROTOCOL_ASSIGNMENTS:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _resolve(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{host!r} cannot be resolved", code="not_ready", retry_after_s=60) from error
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        if not is_public(ipaddress.ip_address(text.partition("%")[0])):
            raise Refused(
                f"{host!r} resolves to {text}, which is not a public address",
                code="url_forbidden",
                remedy="Upload the artifact to the fleet instead, or name a public host",
            )
    return addresses[0]


def fetch(url: str, limit_bytes: int, resolve: Callable[[str, int], str] = _resolve) -> Iterator[bytes]:
    """Yields the body of ``url`` in pieces. Blocking: run it in a thread.

    Raises:
        Refused: ``url_forbidden`` (scheme, credentials in it, address, redirect) or ``limit_exceeded``.
        Unavailable: it cannot be reached or answers with an error.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused(f"{url!r} is no URL", code="url_forbidden") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
        raise Refused(
            f"{url!r} cannot be fetched", code="url_forbidden", remedy="Use http or https, without credentials in it"
        )
    address = resolve(parts.hostname, port)
    try:
        raw = socket.create_connection((address, port), _TIMEOUT_S)
    except OSError as error:
        raise Unavailable(f"{parts.hostname!r} cannot be reached", code="not_ready", retry_after_s=60) from error
    with raw:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=_TIMEOUT_S)
        try:
            connection.sock = (
                ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
                if parts.scheme == "https"
                else raw
            )
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            response = connection.getresponse()
            if 300 <= response.status < 400:
                raise Refused(f"{url!r} redirects, which is not followed", code="url_forbidden")
            if response.status != 200:
                raise Unavailable(f"{url!r} answers {response.status}", code="not_ready", retry_after_s=60)
            total = 0
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
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"{url!r} cannot be read: {error}", code="not_ready", retry_after_s=60) from error
        finally:
            connection.close()
