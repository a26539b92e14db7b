"""The simulated Pub/Sub as a trial of this connector, in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetcore.interfaces.trial import Trial
from fleetcore_gcp.testing.server import serving


@asynccontextmanager
async def open_trial() -> AsyncIterator[Trial]:
    """Serves within the context; an emulator needs no credentials."""
    async with serving() as front:
        yield Trial(
            settings={"project": "trial-project", "emulator": front.endpoint, "create": True},
            cut=lambda: setattr(front.faults, "down", True),
            heal=front.faults.heal,
        )
