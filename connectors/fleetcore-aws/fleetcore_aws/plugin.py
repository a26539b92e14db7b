"""The entry point: offers the cloud ``aws``.

Loaded at every start of fleetcore, so it does not import boto3; the opener does.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_cloud
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_aws.config import AwsConfig

if TYPE_CHECKING:
    from fleetcore.interfaces.cloud import CloudBackend
    from fleetcore.interfaces.trial import Trial

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_aws(config: AwsConfig, context: Context) -> "AsyncIterator[CloudBackend]":
    """Makes the SDK's clients; calls nothing yet, so the first call reports an unreachable hub.

    Raises:
        ConfigError: no region, or a profile that does not exist.
    """
    from fleetcore_aws.backend import AwsCloud
    from fleetcore_aws.clients import open_clients

    async with open_clients(config, context) as clients:
        yield AwsCloud(config, context.fleet, context.mark, clients)


def _trial() -> "AbstractAsyncContextManager[Trial]":
    from fleetcore_aws.testing.trial import open_trial

    return open_trial()


@hookimpl
def fleetcore_clouds() -> "Iterable[Provider[CloudBackend]]":
    """Offers ``aws``."""
    yield offer_cloud(
        "aws", AwsConfig, open_aws, trial=_trial, summary="AWS IoT Core: things, shadows, thing groups, jobs"
    )
