"""What ``[services.api]`` may say, and what of it is refused."""

from attrs import field, frozen, validators

from fleetcore.wire.browser import check_origins
from fleetcore.wire.endpoints import Listener, http_listener

_POSITIVE = validators.gt(0)


@frozen(kw_only=True)
class ApiConfig:
    """``[services.api]``.

    Attributes:
        listen: ``https://HOST:PORT``; ``http://`` on a loopback address only.
        body_bytes: longest request body.
        failures_per_minute: refused tokens from one address before further ones are answered 429.
        requests_per_minute: of one principal, by all of its tokens, before further ones are answered 429.
        wait_s: longest wait of a read that names a ``Fleetcore-Position``.
        command_wait_s: longest wait of who sends a command for its end.
        origins: of the pages whose scripts may open the live stream, such as ``https://dashboard.example``. A handshake
            with an ``Origin`` that is not among them is refused: browsers always send it, programs do not.
        parser: ``h11``, or ``httptools``, which takes less processor time and does not bound the head of a request.
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
        """``listen``, taken apart. Raises :class:`ConfigError` where it cannot be listened on safely."""
        return http_listener(self.listen, example="https://127.0.0.1:8444", secrets="would send tokens")
