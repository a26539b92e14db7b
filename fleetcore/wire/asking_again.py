"""A client that waits for its turn to download, as long as the server says."""

import asyncio

from fleetcore.errors import FleetError, Unavailable

#: Codes with which a server says when to ask again.
_LATER = frozenset({"overloaded", "rate_limited"})
#: How long a client waits in all for one download.
WAIT_S = 3600.0


class AskAgain:
    """The waits of one download."""

    def __init__(self) -> None:
        self._waited_s = 0.0

    async def wait(self, error: FleetError) -> bool:
        """Waits as long as the server says; False for another error, and after an hour in all."""
        if not isinstance(error, Unavailable) or error.code not in _LATER or self._waited_s >= WAIT_S:
            return False
        self._waited_s += error.retry_after_s
        await asyncio.sleep(error.retry_after_s)
        return True
