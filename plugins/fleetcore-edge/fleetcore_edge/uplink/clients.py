"""The client of a protocol, by which the agent speaks to the core."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fleetcore.errors import ConfigError
from fleetcore.interfaces.protocol import DeviceClient, DeviceSecrets
from fleetcore_edge.uplink.config import protocol_of

if TYPE_CHECKING:
    from fleetcore.runtime.plugins import PluginHost

#: Makes a client for an endpoint's URL.
MakeClient = Callable[[str, DeviceSecrets], DeviceClient]


def client_for(host: "PluginHost", url: str) -> MakeClient:
    """What makes the clients for a URL. Raises ConfigError where its protocol is not installed, or has no client."""
    protocol = protocol_of(url)
    provider = host.offers("protocols").get(protocol)
    if provider is None or provider.client is None:
        raise ConfigError(
            f"The protocol {protocol!r} of {url} is not installed, or has no client",
            remedy=f"pip install fleetcore-{protocol}",
        )
    made: MakeClient = provider.client
    return made
