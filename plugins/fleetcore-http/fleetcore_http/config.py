"""The section ``[protocols.http]``, and its checks.

The core structures the section into :class:`HttpConfig`; checks of several members run when the protocol opens, and
raise an error with a remedy.
"""

from attrs import frozen

from fleetcore.errors import ConfigError
from fleetcore.listening.limits import ListenerLimits
from fleetcore.wire.endpoints import Listener, http_listener


@frozen(kw_only=True)
class Deadlines:
    """How long a peer may take, in seconds: between requests, for a header section, and for a body."""

    idle_s: float
    head_s: float
    body_s: float


@frozen(kw_only=True)
class HttpConfig:
    """``[protocols.http]``.

    Attributes:
        listen: ``https://HOST:PORT``; ``http://`` on a loopback address only.
        trusted_proxies: addresses or networks whose ``Client-Cert`` header (RFC 9440) is trusted. Their own certificate
            never counts as a device's; the header of any other peer is ignored.
        idle_s: a kept-alive connection without a request is closed after this; default: ``[listeners] idle_s``.
        header_timeout_s: from the first byte of a request (or from connecting) to the end of its header section;
            default: ``[listeners] head_s``.
        body_timeout_s: from the end of the header section to the end of the body; default: ``[listeners] body_s``.
    """

    listen: str = "https://0.0.0.0:8443"
    trusted_proxies: tuple[str, ...] = ()
    idle_s: float | None = None
    header_timeout_s: float | None = None
    body_timeout_s: float | None = None

    def listener(self) -> Listener:
        """``listen``, parsed. Raises :class:`ConfigError` if it is not safe to listen on."""
        return http_listener(self.listen, example="https://0.0.0.0:8443", secrets="would talk to devices")

    def deadlines(self, limits: ListenerLimits) -> Deadlines:
        """The deadlines: from this section, else from ``[listeners]``."""
        return Deadlines(
            idle_s=limits.idle_s if self.idle_s is None else self.idle_s,
            head_s=limits.head_s if self.header_timeout_s is None else self.header_timeout_s,
            body_s=limits.body_s if self.body_timeout_s is None else self.body_timeout_s,
        )

    def check(self) -> None:
        """Raises :class:`ConfigError` for times that are not above zero."""
        for name in ("idle_s", "header_timeout_s", "body_timeout_s"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise ConfigError(f"{name} must be above zero", remedy="Leave it out for the default")
