"""What ``[services.api]`` may say, and what of it is refused."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError

_POSITIVE = validators.gt(0)
#: Ports of the schemes (RFC 9110 §4.2).
_DEFAULT_PORT = {"https": 443, "http": 80}


@frozen(kw_only=True)
class Listener:
    """Where to listen, taken apart; ``port`` 0 has the system choose."""

    host: str
    port: int
    tls: bool


@frozen(kw_only=True)
class ApiConfig:
    """``[services.api]``.

    Attributes:
        listen: ``https://HOST:PORT``; ``http://`` on a loopback address only.
        body_bytes: longest request body.
        failures_per_minute: refused tokens from one address before further ones are answered 429.
        wait_s: longest wait of a read that names a ``Fleetcore-Position``.
        command_wait_s: longest wait of who sends a command for its end.
    """

    listen: str = "https://127.0.0.1:8444"
    body_bytes: int = field(default=1024 * 1024, validator=_POSITIVE)
    failures_per_minute: int = field(default=20, validator=_POSITIVE)
    wait_s: float = field(default=10.0, validator=validators.gt(0.0))
    command_wait_s: float = field(default=60.0, validator=validators.gt(0.0))

    def listener(self) -> Listener:
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        try:
            parts = urlsplit(self.listen)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{self.listen!r} is no URL to listen on: {error}") from error
        if parts.scheme not in _DEFAULT_PORT or not parts.hostname or parts.path not in {"", "/"} or parts.query:
            raise ConfigError(
                f"{self.listen!r} is no URL to listen on", remedy="Write https://HOST:PORT, https://127.0.0.1:8444"
            )
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ConfigError(
                f"{self.listen!r} would send tokens without encryption",
                remedy="Use https://, or listen on 127.0.0.1 behind a proxy that ends TLS",
            )
        port = _DEFAULT_PORT[parts.scheme] if port is None else port
        return Listener(host=parts.hostname, port=port, tls=parts.scheme == "https")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
