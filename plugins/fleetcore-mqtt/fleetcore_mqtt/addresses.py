"""Parses ``mqtts://HOST:PORT``; plain text is only allowed on this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from attrs import frozen

from fleetcore.errors import ConfigError


@frozen
class Address:
    """The address of an MQTT server; ``secure`` means TLS."""

    host: str
    port: int
    secure: bool

    @property
    def loopback(self) -> bool:
        """Whether the host is written as a loopback address: a name may resolve to anything."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_address(url: str) -> Address:
    """The address in ``url``; the port defaults to 8883, in plain text to 1883.

    Raises ConfigError for another scheme, a missing host, an invalid port, and plain text over a network.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{url} is not an address: {error}", remedy="Use mqtts://HOST:PORT") from error
    if parts.scheme not in {"mqtt", "mqtts"} or not host:
        raise ConfigError(f"{url} is not an MQTT address", remedy="Use mqtts://HOST:PORT")
    secure = parts.scheme == "mqtts"
    address = Address(host, (8883 if secure else 1883) if port is None else port, secure)
    if not secure and not address.loopback:
        raise ConfigError(
            f"{url} would send credentials in clear text over a network",
            remedy="Use mqtts://, or mqtt:// on 127.0.0.1 only",
        )
    return address
