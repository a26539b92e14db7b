"""The connector's own keys of ``[clouds.NAME]``, and their checks.

Keys are not among them: a reference names a connection string, or the hub's host name is used with credentials of
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
#: The port of MQTT over TLS.
_LINK_PORT = 8883

#: The supported tiers, with their names at Azure.
Tier = Literal["S1", "S2", "S3"]


@frozen(kw_only=True)
class AzureConfig:
    """``[clouds.NAME]`` with ``kind = "azure"``.

    Attributes:
        connection_string: a reference, ``env:NAME`` or ``file:PATH``, to the one of a shared access policy.
        host: the hub's host, ``NAME.azure-devices.net``, with credentials from azure-identity's chain.
        device_connection_string: a reference to the one of a policy with DeviceConnect, for readings and
            cloud-to-device messages: Entra ID does not allow the device API. By default ``connection_string``.
        endpoint: replaces ``https://HOST``, for a simulated hub.
        ca: the file of a trusted root, replacing the public ones.
        device_prefix: the prefix of device ids at Azure.
        tier, units: the hub's; its throttles depend on them.
        commands_by: ``desired`` reads commands from a section of each device's twin, with one query for all devices;
            ``c2d`` reads cloud-to-device messages, with one call per device.
        commands_poll_s: the polling interval for commands.
        device_link: ``mqtt`` writes reported properties over a connection of each device, rather than to tags.
        link_endpoint: ``mqtts://HOST:PORT`` replacing the hub's own, for a simulated hub.
        links: the maximum of open device connections.
        threads: concurrent calls of the SDK.
        connect_timeout_s: the time limit of a connection.
        read_timeout_s: the time limit of an answer.
        subscription: the id of the Azure subscription, for a complete printed role.
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
                    f"{name} must be a reference, not the text itself",
                    remedy="Write env:NAME or file:PATH and keep the connection string there",
                )
        if (self.connection_string is None) == (self.host is None):
            raise ConfigError(
                "Name the hub by its connection string or by its host, but not both",
                remedy='Add connection_string = "env:NAME", or host = "NAME.azure-devices.net"',
            )
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ConfigError(
                "host is not a host name", remedy='Write host = "NAME.azure-devices.net", without https://'
            )
        if not _PREFIX.fullmatch(self.device_prefix):
            raise ConfigError(
                "device_prefix is not a valid prefix of a device id",
                remedy="Use up to 63 characters of a-z A-Z 0-9 . _ -",
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
        """Host and port for devices, of the hub ``host``. Raises ConfigError."""
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
