"""The entry point: offers the service ``api``. It does not import the web framework; opening does that."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_service
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_api.config import ApiConfig

if TYPE_CHECKING:
    from fleetcore.runtime.app import Fleet
    from fleetcore_api.server import ApiServer

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_api(config: ApiConfig, context: Context, fleet: "Fleet") -> "AsyncIterator[ApiServer]":
    """Listens until the context ends; event streams are ended first.

    Raises:
        ConfigError: plain HTTP outside of the loopback, or HTTPS in a fleet without a CA.
        NotReady: the address cannot be bound now.
    """
    from fleetcore_api.server import serve

    async with serve(config, context, fleet) as server:
        yield server


@hookimpl
def fleetcore_services() -> "Iterable[Provider[object]]":
    """Offers ``api``."""
    yield offer_service("api", ApiConfig, open_api, summary="the operators' HTTP API under /api/v1")
