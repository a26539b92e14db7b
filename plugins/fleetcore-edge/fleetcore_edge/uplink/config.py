"""The section ``[services.uplink]`` of a gateway's fleet.toml."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from attrs import field, frozen, validators

from fleetcore.errors import ConfigError

_POSITIVE = validators.gt(0)
#: The protocol plugin by the scheme of an endpoint.
_PROTOCOLS = {"wss": "websocket", "ws": "websocket", "mqtts": "mqtt", "mqtt": "mqtt", "https": "http", "http": "http"}
#: The folder of the gateway's credentials at the core, in its data folder.
FOLDER = "uplink"
#: The bound of the data folder where none is given, and the values of ``clock``.
DISK_MIB, CLOCKS = 256, ("auto", "trust")


@frozen(kw_only=True)
class UplinkConfig:
    """Settings of a gateway's connection to the core.

    Attributes:
        url: the core's endpoint for devices, over a protocol that pushes to leaves: ``wss://fleet.example:8445`` or
            ``mqtts://fleet.example:8883``.
        gateway: the gateway's device id at the core.
        folder: the folder of the gateway's certificate, key and the core's CAs, relative to the data folder;
            ``fleetcore edge enroll`` fills it.
        model: the gateway's hardware model, which the manifests of its functions name.
        http: the core's HTTP endpoint for devices, ``https://fleet.example:8443``: it enrols, and modules are
            downloaded there.
        secrets: references to the values of functions' secrets, by function and name: ``"vibration.api_key"``.
        token: a reference to a device token (``env:NAME``, ``file:PATH``), instead of a certificate.
        live_commits: once the uplink is more than this number of commits behind, what is behind goes its own way, and
            new readings do not wait for old ones.
        at_once: messages with old readings that may be under way together.
        batch_s: how long new readings are collected before they are sent.
        look_s: how often the core is asked for the gateway's leaves.
        disk_mib: the bound of the data folder. Near it the oldest readings go, first those that the core has; alerts,
            twins and commands stay.
        clock: ``auto`` doubts the machine's clock where it is implausible, and follows the core where the two differ;
            ``trust`` never follows the core against it, for sites with a time source of their own.
    """

    url: str
    gateway: str
    folder: str = FOLDER
    model: str | None = None
    http: str | None = None
    secrets: Mapping[str, str] = field(factory=dict)
    token: str | None = None
    live_commits: int = field(default=512, validator=_POSITIVE)
    at_once: int = field(default=8, validator=_POSITIVE)
    batch_s: float = field(default=0.25, validator=validators.ge(0.0))
    look_s: float = field(default=60.0, validator=validators.gt(0.0))
    disk_mib: int = field(default=DISK_MIB, validator=validators.ge(16))
    clock: str = field(default=CLOCKS[0], validator=validators.in_(CLOCKS))


def protocol_of(url: str) -> str:
    """The protocol plugin that speaks to an endpoint. Raises ConfigError for another scheme."""
    scheme = urlsplit(url).scheme
    if scheme not in _PROTOCOLS:
        raise ConfigError(
            f"{url!r} is not an endpoint of a core",
            remedy="Write wss://HOST:PORT, mqtts://HOST:PORT or https://HOST:PORT",
        )
    return _PROTOCOLS[scheme]
