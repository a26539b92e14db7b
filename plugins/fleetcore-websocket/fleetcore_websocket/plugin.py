"""The entry point: offers the protocol ``websocket``.

Loaded at every start of fleetcore, so it does not import the WebSocket library; opener and client do.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_protocol
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_websocket.config import WebSocketConfig

if TYPE_CHECKING:
    from fleetcore.interfaces.ingest import Ingest
    from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, DeviceSecrets, ProtocolAdapter

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_websocket(
    config: WebSocketConfig, context: Context, plane: "DevicePlane", ingest: "Ingest"
) -> "AsyncIterator[ProtocolAdapter]":
    """Listens until the context ends; then every connection is closed.

    Raises:
        ConfigError: ``ws://`` outside of the loopback, ``wss://`` in a fleet without a CA, or an invalid setting.
        NotReady: the address cannot be bound now.
    """
    from fleetcore_websocket.endpoint import open_endpoint

    async with open_endpoint(config, context, plane, ingest) as endpoint:
        yield endpoint


def open_client(endpoint: str, secrets: "DeviceSecrets") -> "DeviceClient":
    """The device side, in JSON; to be entered as an async context manager."""
    from fleetcore_websocket.client import WebSocketDeviceClient

    return WebSocketDeviceClient(endpoint, secrets)


@hookimpl
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":
    """Offers ``websocket``."""
    yield offer_protocol(
        "websocket",
        WebSocketConfig,
        open_websocket,
        client=open_client,
        demo={"listen": "wss://127.0.0.1:0"},
        summary="WebSocket for devices and browsers: JSON or CBOR, with client certificates or device tokens",
    )
