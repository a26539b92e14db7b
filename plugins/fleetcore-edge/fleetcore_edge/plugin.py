"""The entry point: offers the service ``uplink``. It does not import wasmtime; opening does that where it is needed."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_service
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_edge.uplink.config import UplinkConfig

if TYPE_CHECKING:
    import click

    from fleetcore.interfaces.scene import Stage
    from fleetcore.runtime.app import Fleet
    from fleetcore_edge.uplink.service import Uplink

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_uplink(config: UplinkConfig, context: Context, fleet: "Fleet") -> "AsyncIterator[Uplink]":
    """Connects a gateway's fleet to the core until the context ends.

    Raises:
        ConfigError: the protocol of the uplink is not installed, or the gateway's credentials cannot be read.
    """
    from fleetcore_edge.uplink.service import open_uplink as opened

    async with opened(config, context, fleet) as uplink:
        yield uplink


async def scene(stage: "Stage") -> None:
    """A gateway of the demo: its function filters, its uplink is cut, and nothing is lost."""
    from fleetcore_edge.scene import play

    await play(stage)


@hookimpl
def fleetcore_services() -> "Iterable[Provider[object]]":
    """Offers ``uplink``."""
    yield offer_service(
        "uplink", UplinkConfig, open_uplink, scene=scene, summary="connects a gateway and its leaves to the core"
    )


@hookimpl
def fleetcore_commands() -> "Iterable[click.Command]":
    """Adds ``enroll``, ``run`` and ``try`` to ``fleetcore edge``."""
    from fleetcore_edge.cli import edge

    yield edge
