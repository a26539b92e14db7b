"""One mirror: a hub, and the lanes to it.

The backend is opened once and shared; a lane that fails leaves the others as they are.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from attrs import frozen

from fleetcore.errors import ConfigError, Unavailable
from fleetcore.interfaces.boundary import contained, in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import first_of
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.pipeline.back_off import back_off_s
from fleetcore.pipeline.consumer import remedy_of
from fleetcore.pipeline.mirror.comparing import Comparing
from fleetcore.pipeline.mirror.lane import StateLane
from fleetcore.pipeline.mirror.looking import Looking
from fleetcore.pipeline.mirror.readings import ReadingsLane

_log = logging.getLogger(__name__)

_PAUSED = "mirror_paused"


@frozen(kw_only=True)
class Overview:
    """How a mirror stands: entities that wait, that the hub holds, will never take, and holds in part."""

    state: str
    waiting: int
    held: int
    invalid: int
    lost: int


class Mirror:
    """See the module.

    Args:
        opener: opens the backend; asked again after a failure.
        rates: calls a second by class, over those of the backend.

    Attributes:
        error: why the backend is not open, or empty.
        readings: None where no readings are sent.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[CloudBackend]],
        lane: StateLane,
        looking: Looking,
        comparing: Comparing,
        storage: Storage,
        clock: Clock,
        *,
        rates: Mapping[str, float],
    ) -> None:
        self.name, self._opener, self.lane, self.looking = name, opener, lane, looking
        self.comparing, self._storage, self._clock, self._rates = comparing, storage, clock, rates
        self.readings: ReadingsLane | None = None
        self.error = ""
        self.pace = Pace({}, clock)
        self._cloud: CloudBackend | None = None
        self._opened, self._again = asyncio.Event(), asyncio.Event()
        lane.on_state = self._show

    async def cloud(self) -> CloudBackend:
        """The backend, as soon as it is open; raises Unavailable where it cannot be opened now."""
        while self._cloud is None:
            if self.error:
                raise Unavailable(f"The hub is not open: {self.error}")
            await self._opened.wait()
        return self._cloud

    def _show(self, error: Exception | None) -> None:
        """What ``doctor`` shows of the mirror is what its first consumer says."""
        said = "" if error is None else in_a_line(error)
        self.looking.show("running" if error is None else "failing", said, "" if error is None else remedy_of(error))

    @property
    def state(self) -> str:
        """``opening`` until the backend is open, ``failing`` where it does not open; else the state lane's."""
        if self._cloud is None:
            return "failing" if self.error else "opening"
        return self.lane.state

    async def overview(self) -> Overview:
        """How it stands."""
        kept = await self.lane.kept.counts()
        return Overview(
            state=self.state,
            waiting=await self.lane.marks.waiting(),
            held=kept.get("held", 0),
            invalid=kept.get("invalid", 0),
            lost=kept.get("lost", 0),
        )

    # -- what operators do ------------------------------------------------------------------------------------------

    async def pause(self, *, actor: str, reason: str) -> None:
        """Sends no state until it is resumed, also after a restart."""
        put = Put(kind=_PAUSED, key=self.name, body={"actor": actor, "reason": reason})
        await self._storage.commit(Commit(puts=(put,), events=(self._event("mirror.paused", actor, reason),)))
        self.lane.pause()

    async def resume(self, *, actor: str, reason: str) -> None:
        """Goes on, at once."""
        delete = Delete(kind=_PAUSED, key=self.name)
        await self._storage.commit(Commit(deletes=(delete,), events=(self._event("mirror.resumed", actor, reason),)))
        self.lane.resume()
        self._again.set()

    async def resync(self, *, actor: str, reason: str) -> None:
        """Looks at everything again."""
        await self.looking.look_again(self._event("mirror.resynced", actor, reason))

    def _event(self, what: str, actor: str, reason: str) -> Event:
        return Event(type=what, subject=self.name, time=self._clock.now_ms(), actor=actor, reason=reason)

    # -- work -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Opens the backend and works off the state lane, until cancelled."""
        failures = 0
        if await self._storage.get(_PAUSED, self.name) is not None:
            self.lane.pause()
        while True:
            try:
                async with self._opener() as cloud:
                    self.pace = cloud.pace = Pace({**cloud.limits.rates, **self._rates}, self._clock)
                    self._cloud, self.error, failures = cloud, "", 0
                    self._opened.set()
                    self._show(None)
                    try:
                        await self.lane.run(cloud)
                    finally:
                        self._cloud = None
                        self._opened.clear()
            except ConfigError as error:
                self.error = str(error)
                self.looking.show("stopped", self.error, remedy_of(error))
                self._opened.set()
                _log.error("Mirror %s has stopped until a person acts: %s", self.name, error)
                return
            except asyncio.CancelledError:
                raise
            except BaseException as raised:
                failed = contained(raised, f"mirror {self.name!r}")
                self.error = in_a_line(failed)
                self._show(failed)
                self._opened.set()  # what waits for it hears why it does not come
                wait_s = back_off_s(failures)
                failures += 1
                _log.warning("Mirror %s failed and is tried again in %g s: %s", self.name, wait_s, self.error)
                self._again.clear()
                await first_of(self._clock.sleep(wait_s), self._again.wait())
