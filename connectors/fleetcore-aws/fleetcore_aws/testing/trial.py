"""AWS in memory as a trial of this connector, in this process."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fleetcore.interfaces.trial import Trial
from fleetcore_aws.testing.front import HubBack, serving
from fleetcore_aws.testing.hub import Hub
from fleetcore_aws.testing.operations import REGION

#: The first source of the SDK's chain; the simulated AWS accepts any.
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "trial", "AWS_SECRET_ACCESS_KEY": "trial"}


@asynccontextmanager
async def open_trial() -> AsyncIterator[Trial]:
    """Serves within the context, in which the SDK has credentials that no other hub accepts."""
    async with serving(HubBack(Hub())) as front:
        with _credentials():
            yield Trial(
                settings={"region": REGION, "endpoint": front.endpoint},
                cut=lambda: setattr(front.faults, "down", True),
                heal=front.faults.heal,
            )


@contextmanager
def _credentials() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _CREDENTIALS}
    os.environ.update(_CREDENTIALS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
