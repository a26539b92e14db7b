"""One operator's conversation: its subscriptions, fed in one pass over the feed, and the frames to send for them.

The pass does not wait for the reader: state is coalesced, excess events and readings are dropped and counted. A reader
that reconnects subscribes ``after`` the last position that it received.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from fleetcore.calls.caller import Caller
from fleetcore.calls.events import rights_to_follow, same_rights
from fleetcore.calls.live import frames
from fleetcore.calls.live.following import Events, Readings
from fleetcore.calls.live.frames import Frame, Subscribe
from fleetcore.calls.live.state import State
from fleetcore.calls.live.subscription import LiveLimits, Subscription
from fleetcore.errors import Conflict, NotFound, Refused
from fleetcore.interfaces.waits import end_tasks, first_of

#: How many commits are read at a time.
_PAGE = 100
#: The longest single wait for the feed; then it is asked again.
_WAIT_S = 60.0
#: The delay of connectivity changes that are due to the passing of time.
_COMPARE_S = 30.0
#: How many answers to the reader's frames may wait to be sent; with more, its next frame is not processed.
_ANSWERS = 64
#: The interval at which a reader without news gets its position.
_AT_S = 5.0


class Conversation:
    """One conversation. :meth:`follow` runs concurrently with the reader of :meth:`told`, in one event loop.

    Attributes:
        position: the feed is processed up to here, for all subscriptions that are not behind.

    Raises:
        NotAuthenticated, NotAuthorised: by all methods, once the caller may no longer follow the fleet.
    """

    _KINDS: ClassVar[dict[str, type[Subscription]]] = {"state": State, "events": Events, "readings": Readings}

    def __init__(self, caller: Caller, limits: LiveLimits | None = None) -> None:
        self._caller, self._storage = caller, caller.fleet.storage
        self._clock = caller.fleet.clock
        self._limits = LiveLimits() if limits is None else limits
        self._subscriptions: dict[str, Subscription] = {}
        self.position = 0
        self._said: deque[Frame] = deque()
        #: Set while few enough answers wait that the reader's next frame may be processed.
        self._heard = asyncio.Event()
        self._heard.set()
        #: Set when there may be something to send, and when a subscription is behind the others.
        self._news, self._behind = asyncio.Event(), asyncio.Event()
        self._at, self._at_s = 0, 0.0
        #: The rights that decided about all that waits, and the lock that keeps them constant meanwhile.
        self._judged, self._judging = caller.rights, asyncio.Lock()

    async def begin(self) -> None:
        """Call this once, before all else."""
        await self._check()
        self.position = self._at = await self._storage.position()
        limits = {"subscriptions": self._limits.subscriptions, "waiting": self._limits.waiting}
        self._say({"op": "hello", "position": self.position, "limits": limits})

    # -- the reader's side ----------------------------------------------------------------------------------------

    async def take(self, payload: bytes) -> None:
        """Handles a frame of the reader; its errors are sent back. Waits for a reader that only sends."""
        await self._heard.wait()
        try:
            asked = frames.read(payload)
        except Refused as error:
            self._say(frames.refused(frames.id_of(payload), error))
            return
        if not isinstance(asked, Subscribe):
            if self._subscriptions.pop(asked.id, None) is None:
                self._say(frames.refused(asked.id, NotFound(f"There is no subscription {asked.id!r}")))
            return
        try:
            await self._check()
            await self._subscribe(asked)
        except (Refused, NotFound, Conflict) as error:
            self._say(frames.refused(asked.id, error))

    async def _subscribe(self, asked: Subscribe) -> None:
        if asked.id in self._subscriptions:
            raise Conflict(f"There is a subscription {asked.id!r}", remedy="Unsubscribe first, or use another id")
        if len(self._subscriptions) >= self._limits.subscriptions:
            raise Refused(
                f"A conversation has at most {self._limits.subscriptions} subscriptions",
                code="limit_exceeded",
                remedy="Unsubscribe from one, or open another conversation",
                limit=self._limits.subscriptions,
                unit="subscriptions",
                scope="conversation",
            )
        newest = await self._storage.position()
        if asked.after is not None and asked.after > newest:
            raise NotFound(f"The fleet has not reached position {asked.after}", oldest=newest + 1)
        position = self.position if asked.after is None else asked.after
        self._subscriptions[asked.id] = self._KINDS[asked.to](self._caller, asked, position, self._limits)
        self._news.set()
        self._behind.set()

    async def told(self) -> AsyncIterator[Frame]:
        """The frames to send, without end. A frame is made when it is asked for, by the rights at that moment."""
        while True:
            self._news.clear()
            await self._check()
            while self._said:
                answer = self._said.popleft()
                if len(self._said) < _ANSWERS:
                    self._heard.set()
                yield answer
            for subscription in list(self._subscriptions.values()):
                frame = await self._of(subscription)
                if frame is not None:
                    yield frame
                    await self._check()
            if self._said or any(subscription.waits for subscription in self._subscriptions.values()):
                continue
            if (at := self._progress()) is not None:
                yield at
            await self._news.wait()

    async def _of(self, subscription: Subscription) -> Frame | None:
        """The next frame of a subscription; a subscription that cannot continue ends with a frame that says why."""
        if not subscription.waits or self._subscriptions.get(subscription.id) is not subscription:
            return None
        try:
            async with self._judging:
                return await subscription.take()
        except Refused as error:
            self._subscriptions.pop(subscription.id, None)
            return frames.ended(subscription.id, error)

    def _progress(self) -> Frame | None:
        """The position of a reader that has received everything."""
        position = min((each.position for each in self._subscriptions.values()), default=self.position)
        now_s = self._clock.monotonic_s()
        if position <= self._at or now_s - self._at_s < _AT_S:
            return None
        self._at, self._at_s = position, now_s
        return {"op": "at", "position": position}

    def _say(self, frame: Frame) -> None:
        self._said.append(frame)
        if len(self._said) >= _ANSWERS:
            self._heard.clear()
        self._news.set()

    # -- the feed's side ------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follows the feed without end."""
        unfollow = self._caller.fleet.presence.on_change(self._present)
        comparing = asyncio.create_task(self._compare(), name="presence of a live stream")
        try:
            with self._caller.waiting() as wait:
                while True:
                    await self._check()
                    if not await self._step():
                        await wait(self._something_new())
        finally:
            unfollow()
            await end_tasks(comparing)

    async def _step(self) -> bool:
        """Reads on, for all subscriptions at one position, and for each behind; returns whether there was any."""
        if not self._subscriptions:
            self.position = await self._storage.position()
            return False
        moved = False
        for subscription in list(self._subscriptions.values()):
            if subscription.position < self.position:
                await self._read([subscription], subscription.position, self.position)
                moved = True
        level = [each for each in self._subscriptions.values() if each.position == self.position]
        before = self.position
        self.position = await self._read(level, self.position, None)
        if moved or self.position > before:
            self._news.set()
        return moved or self.position > before

    async def _read(self, subscriptions: Sequence[Subscription], position: int, to: int | None) -> int:
        """Passes a page of the feed to some subscriptions after their position; returns the new one."""
        try:
            entries = await self._storage.feed(position, _PAGE)
        except NotFound as error:
            oldest = error.ids.get("oldest")
            if not isinstance(oldest, int):
                raise
            for subscription in subscriptions:
                subscription.trimmed(oldest - 1)
                self._say(subscription.frame("reset", position=oldest - 1, detail=error.message))
            return oldest - 1
        for entry in entries:
            if to is not None and entry.position > to:
                break
            async with self._judging:
                for subscription in subscriptions:
                    await subscription.see(entry)
                    subscription.position = entry.position
            position = entry.position
        return position

    async def _something_new(self) -> None:
        self._behind.clear()
        feed = [self._storage.wait_feed(self.position, _WAIT_S)] if self._subscriptions else []
        await first_of(self._behind.wait(), *feed)

    def _present(self, device: str) -> None:
        for subscription in self._subscriptions.values():
            if isinstance(subscription, State):
                subscription.present(device)
        self._news.set()

    async def _compare(self) -> None:
        while True:
            await self._clock.sleep(_COMPARE_S)
            for subscription in list(self._subscriptions.values()):
                if isinstance(subscription, State):
                    await subscription.compare()
            self._news.set()

    # -- rights ---------------------------------------------------------------------------------------------------

    async def _check(self) -> None:
        """Updates the rights; if they differ, everything that waits is checked against them."""
        rights = await rights_to_follow(self._caller, "the live stream")
        if rights is self._judged:
            return
        async with self._judging:
            if not same_rights(self._judged, rights):
                for subscription in self._subscriptions.values():
                    await subscription.judge_again()
                self._news.set()
            self._judged = rights
