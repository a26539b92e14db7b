"""The section ``[protocols.websocket]``, and its checks."""

from attrs import frozen

from fleetcore.errors import ConfigError
from fleetcore.wire.browser import check_origins
from fleetcore.wire.endpoints import WEBSOCKET, Listener, take_apart


@frozen(kw_only=True)
class WebSocketConfig:
    """``[protocols.websocket]``.

    Attributes:
        listen: ``wss://HOST:PORT``; ``ws://`` on a loopback address only.
        origins: the origins of pages whose scripts may connect, such as ``https://app.example``. A handshake with
            another ``Origin`` is refused: browsers always send it, devices do not.
        client_certificates: whether peers are asked for a certificate. False for pages: Chromium gives up a WebSocket
            whose server asks for a certificate, even an optional one.
        trusted_proxies: addresses or networks whose ``Client-Cert`` header (RFC 9440) is trusted. Their own certificate
            never counts as a device's; the header of any other peer is ignored.
        ping_s: a device that has sent nothing for this long is pinged; if it then sends nothing for as long again it is
            disconnected.
    """

    listen: str = "wss://0.0.0.0:8445"
    origins: tuple[str, ...] = ()
    client_certificates: bool = True
    trusted_proxies: tuple[str, ...] = ()
    ping_s: float = 30.0

    def listener(self) -> Listener:
        """``listen``, parsed. Raises :class:`ConfigError` if it is not safe to listen on."""
        return take_apart(self.listen, WEBSOCKET, example="wss://0.0.0.0:8445", secrets="would talk to devices")

    def check(self) -> None:
        """Raises :class:`ConfigError` for an origin that no browser sends, and for a time that is not above zero."""
        check_origins(self.origins)
        if not self.ping_s > 0:
            raise ConfigError("ping_s must be above zero", remedy="Leave it out for 30 s")
