"""Whether the fleet works, tested by use: a commit and a read, each listener, each consumer.

States alone would show a server as ready whose store no longer accepts writes.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from fleetcore.errors import FleetError
from fleetcore.interfaces.boundary import in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit
from fleetcore.pipeline.consumer import CursorTask
from fleetcore.runtime.supervise import Supervisor

#: The blob that a probe writes; it does not appear in the feed.
BLOB = "fleet/probe"
#: How long a probe of the store may take, and how long its result is reused.
_PROBE_S, _FRESH_S = 5.0, 1.0


@frozen(kw_only=True)
class Parts:
    """The parts to test; ``listeners`` gives the problem of each configured protocol, or empty."""

    storage: Storage
    clock: Clock
    supervisor: Supervisor
    consumers: Callable[[], Sequence[CursorTask]]
    listeners: Callable[[], Mapping[str, str]]


class Readiness:
    """The parts that are not ready, with reasons; frequent calls cost at most one commit a second."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._probing = asyncio.Lock()
        self._probed_s: float | None = None
        self._trouble = ""

    async def waiting_for(self) -> dict[str, str]:
        """Empty if everything works."""
        found = {
            each.name: f"{each.status.state}: {each.status.error}" if each.status.error else each.status.state
            for each in self._parts.consumers()
            if each.status.state != "running"
        }
        found |= {f"protocol {name}": trouble for name, trouble in self._parts.listeners().items() if trouble}
        path = self._parts.supervisor.states.get("data path")
        if path is not None and path.failures:
            found["data path"] = path.error
        if trouble := await self.storage():
            found["storage"] = trouble
        return found

    async def storage(self) -> str:
        """Why the store does not complete a commit and a read within 5 s; empty if it does."""
        failure = self._parts.storage.failure
        if failure is not None:
            return failure.message
        async with self._probing:
            now = self._parts.clock.monotonic_s()
            if self._probed_s is None or not 0 <= now - self._probed_s < _FRESH_S:
                self._trouble = await self._probe()
                self._probed_s = now
            return self._trouble

    async def _probe(self) -> str:
        storage, written = self._parts.storage, str(self._parts.clock.now_ms()).encode()
        try:
            async with asyncio.timeout(_PROBE_S):
                await storage.commit(Commit(blobs={BLOB: written}))
                read = await storage.blob(BLOB)
        except TimeoutError:
            return f"It did not complete a commit and a read within {_PROBE_S:g} s"
        except Exception as error:
            return error.message if isinstance(error, FleetError) else in_a_line(error)
        return "" if read == written else "It does not return what was committed"
