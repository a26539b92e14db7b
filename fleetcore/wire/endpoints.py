"""Listeners' URLs: parsing and validating the address to listen on, and the address for clients."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

from fleetcore.errors import ConfigError

_ALL = frozenset({"0.0.0.0", "::"})  # noqa: S104 - they are looked for, nothing is bound to them


def reachable(url: str, host: str) -> str:
    """The URL of a listener with ``host`` in place of a wildcard address."""
    parts = urlsplit(url)
    if parts.hostname not in _ALL:
        return url
    name = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=name if parts.port is None else f"{name}:{parts.port}").geturl()


@frozen(kw_only=True)
class Listener:
    """The parts of an address to listen on; with ``port`` 0 the system chooses one."""

    host: str
    port: int
    tls: bool


@frozen
class Schemes:
    """The two schemes of a protocol, with and without TLS, and their ports."""

    secure: str
    secure_port: int
    plain: str
    plain_port: int


#: RFC 9110 §4.2.
HTTP = Schemes("https", 443, "http", 80)
#: RFC 6455 §3.
WEBSOCKET = Schemes("wss", 443, "ws", 80)


def take_apart(url: str, schemes: Schemes, *, example: str, secrets: str, protected: bool = False) -> Listener:
    """``SCHEME://HOST:PORT``, where the scheme without TLS is allowed only for loopback addresses.

    Args:
        example: a valid URL, for the error.
        secrets: what would be unencrypted, as in "would send tokens".
        protected: each message is protected by itself, so the scheme without TLS is allowed for any address.

    Raises:
        ConfigError: it is not such a URL, or not safe to listen on.
    """
    remedy = f"Write {schemes.secure}://HOST:PORT, for example {example}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a URL to listen on: {error}", remedy=remedy) from error
    ports = {schemes.secure: schemes.secure_port, schemes.plain: schemes.plain_port}
    if parts.scheme not in ports or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ConfigError(f"{url!r} is not a URL to listen on", remedy=remedy)
    tls = parts.scheme == schemes.secure
    if not tls and not protected and not is_loopback(parts.hostname):
        raise ConfigError(
            f"{url!r} {secrets} without encryption",
            remedy=f"Use {schemes.secure}://, or listen on 127.0.0.1 behind a proxy that ends TLS",
        )
    return Listener(host=parts.hostname, port=ports[parts.scheme] if port is None else port, tls=tls)


def http_listener(url: str, *, example: str, secrets: str) -> Listener:
    """``https://HOST:PORT``, or ``http://`` on a loopback address; as :func:`take_apart`."""
    return take_apart(url, HTTP, example=example, secrets=secrets)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
