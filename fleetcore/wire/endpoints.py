"""HTTP listeners: where they listen, taken apart and judged, and where they are reached."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

from fleetcore.errors import ConfigError

#: Ports of the schemes (RFC 9110 §4.2).
_DEFAULT_PORT = {"https": 443, "http": 80}
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
    """Where to listen, taken apart; ``port`` 0 has the system choose."""

    host: str
    port: int
    tls: bool


def http_listener(url: str, *, example: str, secrets: str) -> Listener:
    """``https://HOST:PORT``, or ``http://`` on a loopback address.

    Args:
        example: a URL that would do, for the error.
        secrets: what would go without encryption, as in "would send tokens".

    Raises:
        ConfigError: it is no such URL, or not safe to listen on.
    """
    remedy = f"Write https://HOST:PORT, {example} for one"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL to listen on: {error}", remedy=remedy) from error
    if parts.scheme not in _DEFAULT_PORT or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ConfigError(f"{url!r} is no URL to listen on", remedy=remedy)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(
            f"{url!r} {secrets} without encryption",
            remedy="Use https://, or listen on 127.0.0.1 behind a proxy that ends TLS",
        )
    port = _DEFAULT_PORT[parts.scheme] if port is None else port
    return Listener(host=parts.hostname, port=port, tls=parts.scheme == "https")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
