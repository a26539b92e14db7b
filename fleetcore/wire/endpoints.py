"""Where a listener is reached: an address that means "all of mine" is no address to connect to."""

from urllib.parse import urlsplit

_ALL = frozenset({"0.0.0.0", "::"})  # noqa: S104 - they are looked for, nothing is bound to them


def reachable(url: str, host: str) -> str:
    """The URL of a listener with ``host`` in place of a wildcard address."""
    parts = urlsplit(url)
    if parts.hostname not in _ALL:
        return url
    name = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=name if parts.port is None else f"{name}:{parts.port}").geturl()
