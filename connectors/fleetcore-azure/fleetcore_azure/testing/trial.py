"""The simulated hub as a trial of this connector, in this process."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetcore.interfaces.trial import Trial
from fleetcore_azure.testing.front import serving
from fleetcore_azure.testing.hub import Hub


@asynccontextmanager
async def open_trial() -> AsyncIterator[Trial]:
    """Serves within the context, in which an environment variable has the connection string."""
    variable = f"FLEETCORE_AZURE_TRIAL_{secrets.token_hex(4).upper()}"
    async with serving(Hub()) as front:
        os.environ[variable] = front.connection_string()
        try:
            yield Trial(
                settings={
                    "connection_string": f"env:{variable}",
                    "endpoint": front.endpoint,
                    "ca": str(front.ca.path),
                },
                cut=lambda: setattr(front.faults, "down", True),
                heal=front.faults.heal,
            )
        finally:
            os.environ.pop(variable, None)
