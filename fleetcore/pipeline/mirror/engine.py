"""One mirror: a hub, and what sends to it and follows it.

Its senders share one open backend; a failing one does not affect the others.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from attrs import evolve, frozen

from fleetcore.errors import ConfigError, NotFound, Unavailable
from fleetcore.interfaces.boundary import contained, in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import CloudBackend, CloudUse
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.storage import Storage
from fleetcore.interfaces.waits import end_tasks, first_of
from fleetcore.model.mirror import CALLED, EntityKey
from fleetcore.model.store import Commit, Delete, Event, Put
from fleetcore.pipeline.back_off import back_off_s
from fleetcore.pipeline.consumer import HEALTHY_S, remedy_of
from fleetcore.pipeline.mirror.change_tracker import HUB_KIND, ChangeTracker
from fleetcore.pipeline.mirror.comparing import Comparing
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.inbox import Inbox
from fleetcore.pipeline.mirror.readings import ReadingsSender
from fleetcore.pipeline.mirror.sender import StateSender

_log = logging.getLogger(__name__)

_PAUSED = "mirror_paused"


@frozen(kw_only=True)
class Overview:
    """The state of a mirror: how many entities wait, are at the hub, are invalid, were sent in part, and are paused.

    ``lag_s`` is how long the oldest entity has waited, ``removals_wait`` how many removals wait for tomorrow.
    """

    state: str
    waiting: int
    held: int
    invalid: int
    lost: int
    paused: int
    removals_wait: int
    lag_s: float


class Mirror:
    """One mirror; see the module.

    Args:
        opener: opens the backend; called again after a failure.
        inbox: handles what the hub sends; None if nothing is accepted from it.
        use: what the mirror does with the hub.
        rates: calls per second by class, replacing those of the backend.
        timeout_s: the time limit of a batch.

    Attributes:
        error: why the backend is not open, or empty.
        readings: None if no readings are sent.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractAsyncContextManager[CloudBackend]],
        sender: StateSender,
        tracker: ChangeTracker,
        comparing: Comparing,
        storage: Storage,
        clock: Clock,
        *,
        inbox: Inbox | None,
        use: CloudUse,
        rates: Mapping[str, float],
        timeout_s: float,
    ) -> None:
        self.name, self._opener, self.sender, self.tracker = name, opener, sender, tracker
        self.comparing, self._storage, self._clock, self._rates = comparing, storage, clock, rates
        self.inbox, self._use, self._timeout_s = inbox, use, timeout_s
        self.readings: ReadingsSender | None = None
        self.error = ""
        self.pace = Pace({}, clock)
        self._hub: Hub | None = None
        self._opened, self._again = asyncio.Event(), asyncio.Event()
        sender.on_state = self._show

    async def hub(self) -> Hub:
        """The hub once it is open; raises Unavailable if it cannot be opened now."""
        while self._hub is None:
            if self.error:
                raise Unavailable(f"The hub is not open: {self.error}")
            await self._opened.wait()
        return self._hub

    async def cloud(self) -> CloudBackend:
        """The backend, in the same way."""
        return (await self.hub()).cloud

    def _show(self, error: Exception | None) -> None:
        """``doctor`` shows the state of the mirror's first consumer."""
        if error is None:
            self.tracker.show_hub("", "")
        else:
            self.tracker.show_hub(in_a_line(error), remedy_of(error))

    @property
    def state(self) -> str:
        """``opening`` until the backend is open, ``failing`` if it does not open; else the sender's state."""
        if self._hub is None:
            return "failing" if self.error else "opening"
        return self.sender.state

    async def overview(self) -> Overview:
        """The mirror's state."""
        recorded, since_ms = await self.sender.states.counts(), await self.sender.pending.oldest_ms()
        return Overview(
            state=self.state,
            waiting=await self.sender.pending.waiting(),
            held=recorded.get("held", 0),
            invalid=recorded.get("invalid", 0),
            lost=recorded.get("lost", 0),
            paused=recorded.get("paused", 0),
            removals_wait=len(self.sender.removals_wait),
            lag_s=0.0 if since_ms is None else max(0.0, (self._clock.now_ms() - since_ms) / 1000),
        )

    # -- what operators do ------------------------------------------------------------------------------------------

    async def pause(self, *, actor: str, reason: str) -> None:
        """Sends no state until resumed, also after a restart."""
        put = Put(kind=_PAUSED, key=self.name, body={"actor": actor, "reason": reason})
        await self._storage.commit(Commit(puts=(put,), events=(self._event("mirror.paused", actor, reason),)))
        self.sender.pause()

    async def resume(self, *, actor: str, reason: str) -> None:
        """Continues at once."""
        delete = Delete(kind=_PAUSED, key=self.name)
        await self._storage.commit(Commit(deletes=(delete,), events=(self._event("mirror.resumed", actor, reason),)))
        self.sender.resume()
        self._again.set()

    async def pause_entity(self, key: EntityKey, *, actor: str, reason: str) -> None:
        """Leaves one entity as it is at the hub until resumed; the entity need not exist yet."""
        why = reason or f"{actor} paused it"
        event = self._event("mirror.paused", actor, reason, entity=str(key))
        await self.sender.amend(key, lambda recorded: evolve(recorded, paused=why), Commit(events=(event,)))

    async def resume_entity(self, key: EntityKey, *, actor: str, reason: str) -> None:
        """Continues with one entity. Raises NotFound if it is not paused."""
        recorded = await self.sender.states.get(key)
        if recorded.paused is None:
            remedy = f"`fleetcore mirror paused {self.name}` lists paused entities"
            raise NotFound(f"Mirror {self.name!r} has not paused {key}", remedy=remedy, entity=str(key))
        event = self._event("mirror.resumed", actor, reason, entity=str(key))
        # Enqueued first: missed changes are then sent even if the server ends between the two.
        await self.sender.enqueue([key], Commit())
        await self.sender.amend(key, lambda recorded: evolve(recorded, paused=None), Commit(events=(event,)))
        await self.sender.enqueue([key], Commit())

    async def allow_removals(self, count: int, *, actor: str, reason: str) -> None:
        """Allows this many more removals from the hub today."""
        await self.sender.allow_removals(count, self._event("mirror.removals_allowed", actor, reason, count=count))

    async def resync(self, *, actor: str, reason: str) -> None:
        """Compares everything again; a hub that cannot be read is sent everything again."""
        anew = not await self._readable()
        await self.tracker.look_again(self._event("mirror.resynced", actor, reason), anew=anew)

    async def look_at(self, key: EntityKey, *, actor: str, reason: str) -> None:
        """Compares one entity again, such as a dead letter; raises NotFound if neither side has it."""
        if not await self.sender.knows(key):
            raise NotFound(f"Mirror {self.name!r} has no {key}", entity=str(key))
        event = self._event("mirror.resynced", actor, reason, entity=str(key))
        if not await self._readable():
            await self.sender.doubt([key])
        await self.sender.enqueue([key], Commit(events=(event,)))

    async def _readable(self) -> bool:
        """Whether the hub can be read, as of the last opening."""
        known = await self._storage.get(HUB_KIND, self.name)
        return known is None or known.body.get("readable", True) is True

    def _event(self, what: str, actor: str, reason: str, **data: object) -> Event:
        return Event(type=what, subject=self.name, time=self._clock.now_ms(), actor=actor, reason=reason, data=data)

    async def _know(self, hub: str, *, readable: bool) -> None:
        """Forgets the recorded states if they belong to another hub, and compares everything again."""
        known = await self._storage.get(HUB_KIND, self.name)
        body = {"hub": hub, "readable": readable}
        if known is not None and known.body["hub"] == hub:
            if known.body != body:
                await self._storage.commit(Commit(puts=(Put(kind=HUB_KIND, key=self.name, body=body),)))
            return
        await self.sender.states.forget()
        if known is not None:
            _log.warning("Mirror %s has another hub (%s): everything is sent to it", self.name, hub)
            await self.tracker.look_again()
        await self._storage.commit(Commit(puts=(Put(kind=HUB_KIND, key=self.name, body=body),)))

    def _check_reads(self, cloud: CloudBackend) -> None:
        if self._use.reads and not cloud.limits.readable:
            named = " and ".join(sorted(CALLED[facet] for facet in self._use.reads))
            raise ConfigError(
                f"[clouds.{self.name}] takes {named} from a hub that only receives",
                remedy="Remove direction: desired state can be sent to such a hub as a command",
            )

    async def _listen(self, inbox: Inbox, hub: Hub) -> None:
        """Handles what the hub sends, and starts again after a failure; sending is not affected."""
        failures = 0
        while True:
            begun_s = self._clock.monotonic_s()
            try:
                await inbox.run(hub)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                inbox.error = in_a_line(error)
                if self._clock.monotonic_s() - begun_s >= HEALTHY_S:
                    failures = 0
                wait_s = back_off_s(failures)
                failures += 1
                said = "Mirror %s receives nothing, and tries again in %g s: %s"
                _log.warning(said, self.name, wait_s, inbox.error)
                await self._clock.sleep(wait_s)
            else:
                return  # the hub sends nothing

    # -- work -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Opens the backend and runs the state sender, until cancelled."""
        failures = 0
        if await self._storage.get(_PAUSED, self.name) is not None:
            self.sender.pause()
        while True:
            try:
                async with self._opener() as cloud:
                    self.pace = cloud.pace = Pace({**cloud.limits.rates, **self._rates}, self._clock)
                    cloud.use = self._use
                    self._check_reads(cloud)
                    self._hub, self.error, failures = Hub(self.name, cloud, timeout_s=self._timeout_s), "", 0
                    await self._know(cloud.identity, readable=cloud.limits.readable)
                    self._opened.set()
                    self._show(None)
                    listening = None if self.inbox is None else asyncio.create_task(self._listen(self.inbox, self._hub))
                    try:
                        await self.sender.run(self._hub)
                    finally:
                        self._hub = None
                        self._opened.clear()
                        if listening is not None:
                            await end_tasks(listening)
            except ConfigError as error:
                self.error = str(error)
                self.tracker.show("stopped", self.error, remedy_of(error))
                self._opened.set()
                _log.error("Mirror %s has stopped until an operator acts: %s", self.name, error)
                return
            except asyncio.CancelledError:
                raise
            except BaseException as raised:
                failed = contained(raised, f"mirror {self.name!r}")
                self.error = in_a_line(failed)
                self._show(failed)
                self._opened.set()  # callers that wait for it get the reason
                wait_s = back_off_s(failures)
                failures += 1
                _log.warning("Mirror %s failed; the next try is in %g s: %s", self.name, wait_s, self.error)
                self._again.clear()
                await first_of(self._clock.sleep(wait_s), self._again.wait())
