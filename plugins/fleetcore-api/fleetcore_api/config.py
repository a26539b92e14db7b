"""The section ``[services.api]``, and its checks."""

from attrs import field, frozen, validators

from fleetcore.wire.browser import check_origins
from fleetcore.wire.endpoints import Listener, http_listener

_POSITIVE = validators.gt(0)


@frozen(kw_only=True)
class ApiConfig:
    """``[services.api]``.

    Attributes:
        listen: ``https://HOST:PORT``; ``http://`` on a loopback address only.
        body_bytes: maximum request body.
        failures_per_minute: refused tokens from one address before further requests are answered with 429.
        requests_per_minute: requests of one principal, with all its tokens, before further ones are answered with 429.
        wait_s: longest wait of a read with a ``Fleetcore-Position``.
        command_wait_s: longest wait for the end of a sent command.
        origins: the origins of pages whose scripts may open the live stream, such as ``https://dashboard.example``. A
            handshake with another ``Origin`` is refused: browsers always send it, programs do not.
        parser: ``h11``, or ``httptools``, which takes less processor time and does not limit the head of a request.
    """

    listen: str = "https://127.0.0.1:8444"
    body_bytes: int = field(default=1024 * 1024, validator=_POSITIVE)
    failures_per_minute: int = field(default=20, validator=_POSITIVE)
    requests_per_minute: int = field(default=6000, validator=_POSITIVE)
    wait_s: float = field(default=10.0, validator=validators.gt(0.0))
    command_wait_s: float = field(default=60.0, validator=validators.gt(0.0))
    origins: tuple[str, ...] = ()
    parser: str = field(default="h11", validator=validators.in_(("h11", "httptools")))

    def __attrs_post_init__(self) -> None:
        check_origins(self.origins)

    def listener(self) -> Listener:
        """``listen``, parsed. Raises :class:`ConfigError` if it is not safe to listen on."""
        return http_listener(self.listen, example="https://127.0.0.1:8444", secrets="would send tokens")
