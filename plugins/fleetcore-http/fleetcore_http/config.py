"""What ``[protocols.http]`` may say, and what of it is refused.

The section is structured into :class:`HttpConfig` by the core; the checks that need more than one type are made when
the protocol opens, so that the person who reads the error sees a sentence and a remedy.
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
        trusted_proxies: addresses or networks whose ``Client-Cert`` header (RFC 9440) is believed. Their own
            certificate is never taken for a device's; everybody else's header is ignored.
        idle_s: a kept-alive connection without a request is closed; without it ``[listeners] idle_s`` holds.
        header_timeout_s: from the first byte of a request (or from connecting) to the end of its header section;
            without it ``[listeners] head_s`` holds.
        body_timeout_s: from the end of the header section to the end of the body; without it ``[listeners] body_s``.
    """

    listen: str = "https://0.0.0.0:8443"
    trusted_proxies: tuple[str, ...] = ()
    idle_s: float | None = None
    header_timeout_s: float | None = None
    body_timeout_s: float | None = None

    def listener(self) -> Listener:
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        return http_listener(self.listen, example="https://0.0.0.0:8443", secrets="would speak to devices")

    def deadlines(self, limits: ListenerLimits) -> Deadlines:
        """What holds here: this section's, where it says something, else those of every listener."""
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
