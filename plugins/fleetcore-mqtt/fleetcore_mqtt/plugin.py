"""The plugin's offers: the protocol ``mqtt`` and the noun ``mqtt`` on the command line.

Importing it loads neither paho nor the MQTT 5 library: they are imported when an offer is opened.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore import hookimpl, offer_protocol
from fleetcore.errors import ConfigError
from fleetcore.interfaces.ingest import Ingest
from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, DeviceSecrets, ProtocolAdapter
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_mqtt.config import MqttConfig

if TYPE_CHECKING:
    import click

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_mqtt(
    config: MqttConfig, context: Context, plane: DevicePlane, ingest: Ingest
) -> AsyncIterator[ProtocolAdapter]:
    """Opens the endpoint or the consumer; raises ConfigError unless exactly one is configured."""
    if (config.listen is None) == (config.url is None):
        raise ConfigError(
            f"[protocols.{context.name}] needs exactly one of listen and url",
            remedy='Set listen = "mqtts://0.0.0.0:8883" to be the endpoint, or url to use a broker',
        )
    if not 1 <= config.in_flight <= 65_535 or config.broker_unacked < 1:
        raise ConfigError(
            f"[protocols.{context.name}] in_flight and broker_unacked must be at least 1; in_flight at most 65535"
        )
    if config.listen is not None:
        from fleetcore_mqtt.endpoint import open_endpoint

        async with open_endpoint(config.listen, context, plane, ingest, in_flight=config.in_flight) as endpoint:
            yield endpoint
    else:
        from fleetcore_mqtt.broker import open_broker

        async with open_broker(config, context, plane, ingest) as broker:
            yield broker


def open_client(endpoint: str, secrets: DeviceSecrets) -> DeviceClient:
    """Opens the device side, MQTT 5."""
    from fleetcore_mqtt.client import MqttDeviceClient

    return MqttDeviceClient(endpoint, secrets)


@hookimpl
def fleetcore_protocols() -> Iterable[Provider[ProtocolAdapter]]:
    """MQTT 3.1.1 and 5."""
    return [
        offer_protocol(
            "mqtt",
            MqttConfig,
            open_mqtt,
            client=open_client,
            demo={"listen": "mqtts://127.0.0.1:0"},
            summary="MQTT 3.1.1 and 5: as the endpoint, or behind a broker",
        )
    ]


@hookimpl
def fleetcore_commands() -> "Iterable[click.Command]":
    """``fleetcore mqtt``."""
    from fleetcore_mqtt.commands import mqtt

    return [mqtt]
