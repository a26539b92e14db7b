"""A cursor consumer: reads the feed of stored data from a saved position, without end.

The position is saved in the store itself, so a crash skips nothing. Work done since the last saved position may be
repeated, and each consumer says why that is harmless.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from attrs import define

from fleetcore.errors import ConfigError, CredentialsRejected, FleetError, NotFound, Unavailable
from fleetcore.interfaces.boundary import contained, in_a_line
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.store import Commit, FeedEntry
from fleetcore.pipeline.back_off import back_off_s

_log = logging.getLogger(__name__)

#: How often a position is saved when no work makes it urgent; a crash repeats at most this much.
KEEP_EVERY_S = 5.0
_PAGE = 64
_POLL_S = 60.0
#: After this long without a failure the next one counts as the first. It is longer than the longest wait, so that a
#: part that always fails within seconds is tried less and less often.
HEALTHY_S = 120.0


@define
class ConsumerState:
    """The state that ``doctor`` shows: ``state`` is starting, running, failing or stopped."""

    state: str = "starting"
    error: str = ""
    remedy: str = ""
    failures: int = 0
    lost: int = 0
    position: int = 0

    def behind(self, position: int) -> int:
        """By how many commits it is behind a position; it may have passed it meanwhile."""
        return max(0, position - self.position)


def remedy_of(error: BaseException) -> str:
    """The remedy for a failure by its cause: credentials, the other end or the network, or a mistake."""
    match error:
        case CredentialsRejected():
            return error.remedy or "Correct the credentials in its section of fleet.toml, then restart the server"
        case FleetError() if error.remedy:
            return error.remedy
        case Unavailable():
            return "Nothing, if the service it calls comes back; otherwise check the network and that service"
        case OSError() | TimeoutError():
            return "Check the network and the service it calls; it keeps trying"
    if error.__cause__ is not None:
        return remedy_of(error.__cause__)
    return "Correct its plugin or its section of fleet.toml; unhandled data waits for it"


class CursorTask(ABC):
    """Work from a saved position of the feed on; after a failure it waits, and restarts at that position."""

    def __init__(self, name: str, storage: Storage, clock: Clock) -> None:
        self.name, self._storage, self._clock = name, storage, clock
        self.status = ConsumerState()
        self._kept = 0
        self._kept_at = 0.0
        self._moved = asyncio.Event()
        # Saving from outside must not happen between the work and the saving of its position.
        self._at_work = asyncio.Lock()

    async def start(self) -> None:
        """Creates the cursor, so that the store keeps everything committed from now on."""
        if await self._storage.cursor(self.name) is None:
            await self._storage.commit(Commit(cursors={self.name: await self._storage.position()}))

    async def run(self) -> None:
        """Consumes until it is cancelled; owned by the supervisor."""
        failures = 0
        while True:
            try:
                await self._open()
                self.status.position = self._kept = await self._storage.cursor(self.name) or 0
                self._kept_at = self._clock.monotonic_s()
                self.show(self._begins_as(), self.status.error, self.status.remedy)
                begun_s = self._clock.monotonic_s()
                while True:
                    await self._step()
                    if failures and self._clock.monotonic_s() - begun_s >= HEALTHY_S:
                        failures = 0
            except (ConfigError, CredentialsRejected) as error:
                self.show("stopped", str(error), remedy_of(error))
                self.status.failures += 1
                _log.error("%s has stopped until an operator acts: %s", self.name, error)
                await self._shut()
                return
            except asyncio.CancelledError:
                await self._shut()
                raise
            except BaseException as raised:
                failed = contained(raised, self.name)
                self.show("failing", in_a_line(failed), remedy_of(failed))
                self.status.failures += 1
                wait = back_off_s(failures)
                failures += 1
                _log.warning("%s failed; the next try is in %g s: %s", self.name, wait, self.status.error)
                await self._shut()
                await self._clock.sleep(wait)

    def _begins_as(self) -> str:
        """The state to report once it reads: the service it calls may still fail."""
        return "running"

    def show(self, state: str, error: str, remedy: str) -> None:
        """Sets the state that is reported."""
        self.status.state, self.status.error, self.status.remedy = state, error, remedy
        self._moved.set()

    @abstractmethod
    async def _step(self) -> None:
        """Does some work and moves the position, or waits for work."""

    async def catch_up(self, position: int | None = None) -> None:
        """Returns once everything committed before the call, or up to a position, was handled."""
        goal = await self._storage.position() if position is None else position
        while self.status.position < goal and self.status.state in ("starting", "running"):
            self._moved.clear()
            await self._moved.wait()

    async def _open(self) -> None:  # noqa: B027 - most consumers have nothing to prepare
        """Prepares for reading from the saved position."""

    async def _shut(self) -> None:  # noqa: B027 - see _open
        """Releases what :meth:`_open` made; must not raise."""

    async def _state(self) -> bytes | None:
        """The state to save with the position, or None for a consumer without one."""
        return None

    async def keep(self) -> None:
        """Saves the position and the state in one commit."""
        async with self._at_work:
            if self.status.state != "running" or not self._to_keep():
                return
            position, state = self.status.position, await self._state()
            kept = Commit(cursors={self.name: position}, blobs={} if state is None else {self.name: state})
            await self._storage.commit(kept + self._beside())
            self._kept, self._kept_at = position, self._clock.monotonic_s()
            self._wrote()

    def _to_keep(self) -> bool:
        """Whether there is anything to save."""
        return self.status.position > self._kept

    def _beside(self) -> Commit:
        """Further changes for the commit that saves the position."""
        return Commit()

    def _wrote(self) -> None:  # noqa: B027 - see _open
        """Called after the commit that saved the position."""


class Consumer(CursorTask):
    """A step reads a page of the feed, handles it, and moves the position past it."""

    async def _step(self) -> None:
        after = self.status.position
        try:
            entries = await self._storage.feed(after, _PAGE)
        except NotFound as error:
            oldest = error.ids["oldest"]
            assert isinstance(oldest, int)
            self.status.lost += oldest - after - 1
            _log.error("%s was too slow: %d commits were trimmed before it read them", self.name, oldest - after - 1)
            self.status.position = oldest - 1
            await self._missed()
            self._moved.set()
            return
        if not entries:
            dirty = self._to_keep()
            if not await self._rest(after, KEEP_EVERY_S if dirty else _POLL_S) and dirty:
                await self.keep()
            return
        async with self._at_work:
            urgent = await self._handle(entries)
            self.status.position = entries[-1].position
        self._moved.set()
        if urgent or self._clock.monotonic_s() - self._kept_at >= KEEP_EVERY_S:
            await self.keep()

    async def _missed(self) -> None:
        """Called when the feed no longer has the commits after the saved position."""

    async def _rest(self, after: int, seconds: float) -> bool:
        """Waits for something after a position, at most this long; True if there may be something."""
        return await self._storage.wait_feed(after, seconds)

    @abstractmethod
    async def _handle(self, entries: Sequence[FeedEntry]) -> bool:
        """Handles some entries in order; returns True if repeating them should be avoided: then saves the position."""
