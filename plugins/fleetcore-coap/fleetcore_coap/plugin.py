"""The entry point: offers the protocol ``coap``.

Loaded at every start of fleetcore, so it does not import OpenSSL; opener and client do.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_protocol
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_coap.config import CoapConfig, needs_oscore

if TYPE_CHECKING:
    from fleetcore.interfaces.ingest import Ingest
    from fleetcore.interfaces.protocol import DeviceClient, DevicePlane, DeviceSecrets, ProtocolAdapter

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_coap(
    config: CoapConfig, context: Context, plane: "DevicePlane", ingest: "Ingest"
) -> "AsyncIterator[ProtocolAdapter]":
    """Listens until the context ends; then every association is closed.

    Raises:
        ConfigError: plain CoAP outside of the loopback, DTLS in a fleet without a CA, ``psk`` without DTLS or with an
            OpenSSL that does not support it, or OSCORE if its library is not installed or the fleet already has such a
            listener.
        NotReady: the address cannot be bound now.
    """
    if config.stream and not config.oscore:
        from fleetcore_coap.stream import serve as serve_stream

        async with serve_stream(config, context, plane, ingest) as endpoint:
            yield endpoint
        return
    if config.oscore:
        config.listener()  # a fault of the section is reported before a missing library
        needs_oscore()
        from fleetcore_coap.oscore.endpoint import serve as serve_oscore

        async with serve_oscore(config, context, plane, ingest) as protected:
            yield protected
        return
    from fleetcore_coap.server import serve

    async with serve(config, context, plane, ingest) as adapter:
        yield adapter


def open_client(endpoint: str, secrets: "DeviceSecrets") -> "DeviceClient":
    """The device side, to be entered as an async context manager."""
    from fleetcore_coap.client import CoapDeviceClient

    return CoapDeviceClient(endpoint, secrets)


@hookimpl
def fleetcore_protocols() -> "Iterable[Provider[ProtocolAdapter]]":
    """Offers ``coap``."""
    yield offer_protocol(
        "coap",
        CoapConfig,
        open_coap,
        client=open_client,
        demo={"listen": "coaps://127.0.0.1:0"},
        summary="CoAP for devices under /device/v1, over DTLS 1.2 with certificate or key, or with OSCORE",
    )
