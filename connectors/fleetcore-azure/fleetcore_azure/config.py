"""What ``[clouds.NAME]`` may say beside what every mirror may, and what of it is refused.

Keys are never among it: a connection string is named by a reference, or the hub by its host name with credentials of
Microsoft Entra ID.
"""

import re
from typing import Literal
from urllib.parse import urlsplit

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError

_PREFIX = re.compile(r"[a-zA-Z0-9._-]{0,63}", re.ASCII)
_HOST = re.compile(r"[a-zA-Z0-9.-]{1,253}", re.ASCII)
_REFERENCES = ("env:", "file:")
_LINK = "mqtts"
#: Of MQTT over TLS.
_LINK_PORT = 8883

#: Tiers that can be named, with what they are called by Azure.
Tier = Literal["S1", "S2", "S3"]


@frozen(kw_only=True)
class AzureConfig:
    """``[clouds.NAME]`` with ``kind = "azure"``.

    Attributes:
        connection_string: a reference, ``env:NAME`` or ``file:PATH``, to that of a shared access policy.
        host: the hub's, ``NAME.azure-devices.net``, where credentials come by azure-identity's chain instead.
        device_connection_string: a reference to that of a policy with DeviceConnect, for readings and cloud-to-device
            messages: Entra ID opens no device API. By default ``connection_string``.
        endpoint: in place of ``https://HOST``, for a local counterpart.
        ca: the file of the root that is trusted in place of the public ones.
        device_prefix: what device ids at Azure begin with.
        tier, units: of the hub: its throttles follow from them.
        commands_by: ``desired`` takes commands from a section of each device's twin, found by one query for all
            devices; ``c2d`` asks for cloud-to-device messages, a call for each device.
        commands_poll_s: how often they are looked for.
        device_link: ``mqtt`` has reported properties written by a connection of each device, rather than tags.
        link_endpoint: ``mqtts://HOST:PORT`` in place of the hub's own, for a local counterpart.
        links: connections of devices that may be open together.
        threads: calls of the SDK that may be under way.
        connect_timeout_s: for a connection.
        read_timeout_s: for an answer.
        subscription: the id of the Azure subscription, which makes the printed role complete.
        resource_group: the same.
    """

    connection_string: str | None = field(default=None, repr=False)
    host: str | None = None
    device_connection_string: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    ca: str | None = None
    device_prefix: str = ""
    tier: Tier = "S1"
    units: int = field(default=1, validator=validators.gt(0))
    commands_by: Literal["desired", "c2d"] | None = None
    commands_poll_s: float = field(default=30.0, validator=validators.gt(0.0))
    device_link: Literal["mqtt"] | None = None
    link_endpoint: str | None = None
    links: int = field(default=100, validator=validators.gt(0))
    threads: int = field(default=32, validator=validators.gt(0))
    connect_timeout_s: float = field(default=5.0, validator=validators.gt(0.0))
    read_timeout_s: float = field(default=20.0, validator=validators.gt(0.0))
    subscription: str | None = None
    resource_group: str | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("connection_string", "device_connection_string"):
            value = getattr(self, name)
            if value is not None and not value.startswith(_REFERENCES):
                raise ConfigError(
                    f"{name} is a reference, never the text itself",
                    remedy="Write env:NAME or file:PATH and keep the connection string there",
                )
        if (self.connection_string is None) == (self.host is None):
            raise ConfigError(
                "A hub is named by its connection string or by its host, and by one of them",
                remedy='Add connection_string = "env:NAME", or host = "NAME.azure-devices.net"',
            )
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ConfigError(
                "host is not a host name", remedy='Write host = "NAME.azure-devices.net", without https://'
            )
        if not _PREFIX.fullmatch(self.device_prefix):
            raise ConfigError(
                "device_prefix is not a start of a device id", remedy="Use up to 63 characters of a-z A-Z 0-9 . _ -"
            )
        for wanted, what in (
            (self.commands_by == "c2d", "Cloud-to-device messages need a shared access policy"),
            (self.device_link is not None, "Connections of devices need a shared access policy"),
        ):
            if wanted and self.host is not None and self.device_connection_string is None:
                raise ConfigError(
                    what, remedy='Add device_connection_string = "env:NAME", of a policy with DeviceConnect'
                )
        if self.link_endpoint is not None:
            self.link_address("")

    def link_address(self, host: str) -> tuple[str, int]:
        """Host and port where devices connect, of the hub ``host``. Raises ConfigError."""
        if self.link_endpoint is None:
            return host, _LINK_PORT
        try:
            parts = urlsplit(self.link_endpoint)
            port = parts.port or _LINK_PORT
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != _LINK or not parts.hostname:
            raise ConfigError("The link_endpoint cannot be used", remedy="Write mqtts://HOST:PORT")
        return parts.hostname, port
