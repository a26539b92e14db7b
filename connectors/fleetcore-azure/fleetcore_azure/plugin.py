"""The entry point: offers the cloud ``azure``.

Loaded at every start of fleetcore, so it does not import the SDK; the opener does.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_cloud
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_azure.config import AzureConfig

if TYPE_CHECKING:
    from fleetcore.interfaces.cloud import CloudBackend
    from fleetcore.interfaces.trial import Trial

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_azure(config: AzureConfig, context: Context) -> "AsyncIterator[CloudBackend]":
    """Makes the SDK's client; calls nothing yet, so the first call reports an unreachable hub.

    Raises:
        ConfigError: hub or credentials are not configured, or the SDK is not installed.
    """
    from fleetcore_azure.backend import AzureCloud
    from fleetcore_azure.clients import open_clients
    from fleetcore_azure.held import Devices
    from fleetcore_azure.links import open_links

    async with open_clients(config, context) as clients:
        devices = Devices(clients, context.mark, config.device_prefix)
        async with open_links(clients, devices, config.links) as links:
            yield AzureCloud(config, context.fleet, clients, devices, links)


def _trial() -> "AbstractAsyncContextManager[Trial]":
    from fleetcore_azure.testing.trial import open_trial

    return open_trial()


@hookimpl
def fleetcore_clouds() -> "Iterable[Provider[CloudBackend]]":
    """Offers ``azure``."""
    yield offer_cloud(
        "azure", AzureConfig, open_azure, trial=_trial, summary="Azure IoT Hub: device identities, twins, messages"
    )
