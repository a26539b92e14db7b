"""The entry point: offers the cloud ``gcp``.

Loaded at every start of fleetcore, so it does not import the SDK; the opener does.
"""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fleetcore.hookspecs import hookimpl
from fleetcore.interfaces.offers import offer_cloud
from fleetcore.interfaces.provider import Context, Provider
from fleetcore_gcp.config import GcpConfig

if TYPE_CHECKING:
    from fleetcore.interfaces.cloud import CloudBackend
    from fleetcore.interfaces.trial import Trial

FLEETCORE_PLUGIN_API = 2


@asynccontextmanager
async def open_gcp(config: GcpConfig, context: Context) -> "AsyncIterator[CloudBackend]":
    """Calls nothing and reads no credentials yet, so the first call reports an unreachable hub."""
    # gRPC reads it when it is loaded; without it each connection that a server ends is a line on stderr.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from fleetcore_gcp.backend import PubSubCloud
    from fleetcore_gcp.clients import open_clients

    async with open_clients(config, context) as clients:
        yield PubSubCloud(config, context.fleet, context.mark, clients, context.clock)


def _trial() -> "AbstractAsyncContextManager[Trial]":
    from fleetcore_gcp.testing.trial import open_trial

    return open_trial()


@hookimpl
def fleetcore_clouds() -> "Iterable[Provider[CloudBackend]]":
    """Offers ``gcp``."""
    yield offer_cloud(
        "gcp", GcpConfig, open_gcp, trial=_trial, summary="Google Cloud Pub/Sub: topics with ordering keys, commands in"
    )
