"""``mqtts://HOST:PORT`` taken apart, and the one place that says where plain text is allowed: on this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

from fleetcore.errors import ConfigError


@frozen
class Address:
    """Where MQTT is spoken; ``secure`` means TLS."""

    host: str
    port: int
    secure: bool

    @property
    def loopback(self) -> bool:
        """Whether the host is a loopback address, written as one: a name may resolve to anything."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_address(url: str) -> Address:
    """The address in ``url``; the port defaults to 8883, in plain text to 1883.

    Raises ConfigError for another scheme, no host, a port that is none, and for plain text towards a network.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{url} is not an address: {error}", remedy="Use mqtts://HOST:PORT") from error
    if parts.scheme not in {"mqtt", "mqtts"} or not host:
        raise ConfigError(f"{url} is no MQTT address", remedy="Use mqtts://HOST:PORT")
    secure = parts.scheme == "mqtts"
    address = Address(host, (8883 if secure else 1883) if port is None else port, secure)
    if not secure and not address.loopback:
        raise ConfigError(
            f"{url} would carry credentials in clear text over a network",
            remedy="Use mqtts://, or mqtt:// on 127.0.0.1 only",
        )
    return address
