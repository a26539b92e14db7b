"""What ``[protocols.websocket]`` may say, and what of it is refused."""

from attrs import frozen

from fleetcore.errors import ConfigError
from fleetcore.wire.browser import check_origins
from fleetcore.wire.endpoints import WEBSOCKET, Listener, take_apart


@frozen(kw_only=True)
class WebSocketConfig:
    """``[protocols.websocket]``.

    Attributes:
        listen: ``wss://HOST:PORT``; ``ws://`` on a loopback address only.
        origins: of the pages whose scripts may connect, such as ``https://app.example``. A handshake with an
            ``Origin`` that is not among them is refused: browsers always send it, devices do not.
        client_certificates: whether peers are asked for a certificate. False for pages: Chromium gives up a WebSocket
            whose server asks for a certificate, also an optional one.
        trusted_proxies: addresses or networks whose ``Client-Cert`` header (RFC 9440) is believed. Their own
            certificate is never taken for a device's; everybody else's header is ignored.
        ping_s: a device that has said nothing for this long is pinged; one that then says nothing for as long again is
            disconnected.
    """

    listen: str = "wss://0.0.0.0:8445"
    origins: tuple[str, ...] = ()
    client_certificates: bool = True
    trusted_proxies: tuple[str, ...] = ()
    ping_s: float = 30.0

    def listener(self) -> Listener:
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        return take_apart(self.listen, WEBSOCKET, example="wss://0.0.0.0:8445", secrets="would speak to devices")

    def check(self) -> None:
        """Raises :class:`ConfigError` for an origin that no browser sends, and for a time that is not above zero."""
        check_origins(self.origins)
        if not self.ping_s > 0:
            raise ConfigError("ping_s must be above zero", remedy="Leave it out for 30 s")
