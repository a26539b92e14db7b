"""What ``[protocols.http]`` may say, and what of it is refused.

The section is structured into :class:`HttpConfig` by the core; the checks that need more than one type are made when
the protocol opens, so that the person who reads the error sees a sentence and a remedy.
"""

from ipaddress import ip_network

from attrs import frozen

from fleetcore.errors import ConfigError
from fleetcore.model.addresses import Network
from fleetcore.wire.endpoints import Listener, http_listener


@frozen(kw_only=True)
class HttpConfig:
    """``[protocols.http]``.

    Attributes:
        listen: ``https://HOST:PORT``; ``http://`` on a loopback address only.
        trusted_proxies: addresses or networks whose ``Client-Cert`` header (RFC 9440) is believed. Their own
            certificate is never taken for a device's; everybody else's header is ignored.
        idle_s: a kept-alive connection without a request, or a peer that does not read its answer, is closed.
        header_timeout_s: from the first byte of a request (or from connecting) to the end of its header section;
            also the time for the TLS handshake.
        body_timeout_s: from the end of the header section to the end of the body.
    """

    listen: str = "https://0.0.0.0:8443"
    trusted_proxies: tuple[str, ...] = ()
    idle_s: float = 1200.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0

    def listener(self) -> Listener:
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        return http_listener(self.listen, example="https://0.0.0.0:8443", secrets="would speak to devices")

    def proxies(self) -> tuple[Network, ...]:
        """``trusted_proxies`` as networks. Raises :class:`ConfigError` for anything that is no address."""
        try:
            return tuple(ip_network(text) for text in self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(
                f"trusted_proxies: {error}", remedy="Name addresses or networks: 192.0.2.10 or 192.0.2.0/28"
            ) from error

    def check(self) -> None:
        """Raises :class:`ConfigError` for times that are not above zero."""
        for name in ("idle_s", "header_timeout_s", "body_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above zero", remedy="Leave it out for the default")
