"""The entry point: offers the protocol ``http``.

Loaded at every start of fleetcore, so it does not import aiohttp; opener and client do.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_protocol
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_http.config import HttpConfig

if TYPE_CHECKING:
    from fleetcore.interfaces.ingest import Ingest
    from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, DeviceSecrets, ProtocolAdapter

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_http(
    config: HttpConfig, context: Context, plane: "DevicePlane", ingest: "Ingest"
) -> "AsyncIterator[ProtocolAdapter]":
    """Listens until the context ends; then every connection is closed.

    Raises:
        ConfigError: plain HTTP outside of the loopback, or HTTPS in a fleet without a CA.
        NotReady: the address cannot be bound now.
    """
    from fleetcore_http.server import serve

    async with serve(config, context, plane, ingest) as adapter:
        yield adapter


def open_client(endpoint: str, secrets: "DeviceSecrets") -> "DeviceClient":
    """The device side, to be entered as an async context manager."""
    from fleetcore_http.client import HttpDeviceClient

    return HttpDeviceClient(endpoint, secrets)


@hookimpl
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":
    """Offers ``http``."""
    yield offer_protocol(
        "http",
        HttpConfig,
        open_http,
        client=open_client,
        demo={"listen": "https://127.0.0.1:0"},
        summary="HTTP/1.1 for devices under /device/v1, with client certificates or device tokens",
    )
