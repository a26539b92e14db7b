"""WebSockets from a browser's script: they send an Origin, and their token as a subprotocol."""

from collections.abc import Collection, Iterable, Sequence
from urllib.parse import urlsplit

from fleetcore.errors import ConfigError, NotAuthorised

#: The subprotocol that carries a token, for a script that cannot set a header. It is never echoed.
TOKEN_PREFIX = "fleetcore.token."  # noqa: S105 - a prefix, no secret


def check_origins(origins: Iterable[str]) -> None:
    """Validates a setting ``origins``; raises ConfigError for values that no browser sends."""
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path or parts.query or parts.fragment:
            raise ConfigError(
                f"origins: {origin!r} is not an origin",
                remedy="Write https://HOST or https://HOST:PORT, no slash",
            )


def check_origin(shown: Sequence[str], origins: Collection[str], section: str) -> None:
    """Accepts a handshake without an Origin, such as a program's, or with a configured one.

    Args:
        shown: the values of its ``Origin`` headers.
        section: the section of fleet.toml that has ``origins``.

    Raises:
        NotAuthorised: the page has another origin, or the request has two.
    """
    if len(shown) > 1 or (shown and shown[0] not in origins):
        raise NotAuthorised(
            f"Scripts of {shown[0][:200]!r} may not connect", remedy=f"Name its origin in [{section}] origins"
        )


def tokens(offered: Iterable[str]) -> list[str]:
    """The tokens among the subprotocols that a handshake offers."""
    return [name.removeprefix(TOKEN_PREFIX) for name in offered if name.startswith(TOKEN_PREFIX)]
