"""Presence: the observed connectivity of devices. In memory, flushed regularly, stored at once if reported."""

import logging
from collections.abc import Callable, Mapping

import cattrs
from attrs import evolve, field, frozen

from fleetcore.errors import Refused
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.days import HOUR_MS
from fleetcore.model.device import Connectivity, Presence
from fleetcore.model.message import Accepted, Dropped, Handler, MessageType, Outcome, Rejected, Request, accepted
from fleetcore.model.store import Commit, Put
from fleetcore.wire import messages
from fleetcore.wire.bodies import check_ahead
from fleetcore.wire.messages import AHEAD_S
from fleetcore.wire.records import from_plain, to_plain
from fleetcore.wire.replies import rejection

_log = logging.getLogger(__name__)

_KIND = "presence"
#: A device without an open session counts as online this long after its last message, then as late, then offline.
LATE_AFTER_MS = 15 * 60 * 1000
OFFLINE_AFTER_MS = HOUR_MS


#: From these states a later message brings a device back.
_AWAY = frozenset({Connectivity.OFFLINE, Connectivity.ASLEEP})


@frozen(kw_only=True)
class _Seen:
    """The presence of a device; ``away_since`` is when it reported or was seen leaving, ms since the epoch."""

    presence: Presence = field(factory=Presence)
    sessions: int = 0
    away_since: int = 0


_NEVER = _Seen()


class PresenceBoard:
    """The presence of all devices.

    Attributes:
        last: the last message of each device since the last flush, ms since the epoch; written per message.
    """

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage, self._clock = storage, clock
        self._board: dict[str, _Seen] = {}
        self.last: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._online: list[Callable[[str], None]] = []
        self._changes: list[Callable[[str], None]] = []

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' reports about their connection."""
        return {messages.STATUS: self._received}

    def on_online(self, callback: Callable[[str], None]) -> None:
        """Calls ``callback(device)`` whenever a device reports that it is online."""
        self._online.append(callback)

    def on_change(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Calls ``callback(device)`` whenever a session or a report may have changed the device's connectivity.

        Changes by the passing of time alone, and those that follow from a message, are not reported. Returns a function
        that ends it.
        """
        self._changes.append(callback)
        return lambda: self._changes.remove(callback)

    def _changed(self, device: str) -> None:
        for callback in tuple(self._changes):
            callback(device)

    async def _received(self, request: Request, body: messages.Status) -> Outcome:
        outcome, put = self.tell(request.subject, body)
        if put is not None:
            await self._storage.commit(Commit(puts=(put,)))
        if isinstance(outcome, Accepted) and body.state == "online":
            for callback in self._online:
                callback(request.subject)
        return outcome

    async def load(self) -> None:
        """Loads the flushed presence."""
        after: str | None = None
        while True:
            page = await self._storage.find(_KIND, after=after)
            for record in page.items:
                self._board[record.key] = _Seen(presence=self._loaded(record.key, record.body))
            after = page.after
            if after is None:
                return

    def _loaded(self, device: str, body: Mapping[str, object]) -> Presence:
        """A stored presence; values not validated by earlier releases are repaired, and stored with the next flush."""
        try:
            presence = from_plain(_KIND, body, Presence)
        except cattrs.BaseValidationError as error:
            _log.warning("The presence of %s cannot be read and is dropped: %s", device, error)
            self._dirty.add(device)
            return Presence()
        latest = self._clock.now_ms() + AHEAD_S * 1000
        if presence.asleep_until is not None and presence.asleep_until > latest:
            _log.warning("%s reported a sleep of more than %d days; it is limited to that", device, AHEAD_S // 86_400)
            self._dirty.add(device)
            return evolve(presence, asleep_until=latest)
        return presence

    def opened(self, device: str) -> None:
        """Records that a session of the device opened."""
        old = self._board.get(device, _Seen())
        presence = evolve(
            old.presence, connectivity=Connectivity.ONLINE, asleep_until=None, last_seen=self._clock.now_ms()
        )
        self._board[device] = evolve(old, presence=presence, sessions=old.sessions + 1)
        self._dirty.add(device)
        self._changed(device)

    def closed(self, device: str) -> None:
        """Records that a session of the device ended; after the last one it is offline, unless it reported sleep."""
        old = self._heard(device)
        new = evolve(old, sessions=max(0, old.sessions - 1))
        if new.sessions == 0 and new.presence.connectivity is not Connectivity.ASLEEP:
            gone = evolve(new.presence, connectivity=Connectivity.OFFLINE)
            new = evolve(new, presence=gone, away_since=self._clock.now_ms())
        self._board[device] = new
        self._dirty.add(device)
        self._changed(device)

    def _heard(self, device: str) -> _Seen:
        """The presence with the last message: a message after the device went away has brought it back."""
        seen = self._board.get(device, _NEVER)
        last = self.last.get(device, 0)
        if last <= (seen.presence.last_seen or 0):
            return seen
        presence = evolve(seen.presence, last_seen=last)
        if presence.connectivity not in _AWAY or last > seen.away_since:
            presence = evolve(presence, connectivity=Connectivity.ONLINE, asleep_until=None)
        return evolve(seen, presence=presence)

    def forget(self, device: str) -> None:
        """Drops a device's presence."""
        self._board.pop(device, None)
        self.last.pop(device, None)
        self._dirty.discard(device)

    def of(self, device: str) -> Presence:
        """The device's connectivity now; asleep past its time is late, then offline."""
        now = self._clock.now_ms()
        seen = self._heard(device)
        last = seen.presence.last_seen or 0
        state = seen.presence.connectivity
        if state is Connectivity.ASLEEP:
            over = now - (seen.presence.asleep_until or now)
            if over > 0:
                state = Connectivity.LATE if over < OFFLINE_AFTER_MS else Connectivity.OFFLINE
        elif state is Connectivity.ONLINE and seen.sessions == 0:
            silent = now - last
            if silent > OFFLINE_AFTER_MS:
                state = Connectivity.OFFLINE
            elif silent > LATE_AFTER_MS:
                state = Connectivity.LATE
        if state is seen.presence.connectivity and (last or None) == seen.presence.last_seen:
            return seen.presence
        return evolve(seen.presence, connectivity=state, last_seen=last or None)

    def is_asleep(self, device: str) -> bool:
        """Whether it has reported sleep, its time is not over, and no message came since."""
        seen = self._board.get(device)
        if seen is None or seen.presence.connectivity is not Connectivity.ASLEEP:
            return False
        return self.of(device).connectivity is Connectivity.ASLEEP

    def tell(self, device: str, body: messages.Status) -> tuple[Outcome, Put | None]:
        """Handles a report of a device (or its will) about itself (wire.md §5.3): the outcome and the put to store."""
        state, name = body.state, body.session
        now = self._clock.now_ms()
        old = self._heard(device)
        presence, away_since = old.presence, old.away_since
        try:
            until = _until(body, now) if state == "sleeping" else None
        except Refused as error:
            return rejection(error), None
        if state == "online":
            presence = evolve(
                presence, connectivity=Connectivity.ONLINE, session=name, asleep_until=None, last_seen=now
            )
        elif state == "sleeping":
            if until is None:
                return Rejected(
                    code="schema_invalid",
                    reason="sleeping requires for_s (seconds) or until (a time)",
                    pointer="/for_s",
                ), None
            presence = evolve(presence, connectivity=Connectivity.ASLEEP, asleep_until=until, last_seen=now)
            away_since = now
        else:
            if name is not None and presence.session is not None and name != presence.session:
                return Dropped(reason="an outdated will: another session was announced since"), None
            if not self.is_asleep(
                device
            ):  # a radio that is off during sleep ends its connection: the will reports that
                presence = evolve(presence, connectivity=Connectivity.OFFLINE, asleep_until=None)
                away_since = now
        self._board[device] = evolve(old, presence=presence, away_since=away_since)
        self._changed(device)
        return accepted(0), self._put(device)

    def _put(self, device: str) -> Put:
        return Put(kind=_KIND, key=device, body=to_plain(self._heard(device).presence))

    async def flush(self) -> None:
        """Stores what changed since the last flush."""
        changed = self._dirty | self.last.keys()
        self._dirty = set()
        for device in self.last:
            self._board[device] = self._heard(device)
        self.last.clear()
        if changed:
            try:
                await self._storage.commit(Commit(puts=tuple(self._put(device) for device in sorted(changed))))
            except BaseException:
                self._dirty |= changed  # the next flush stores it
                raise


def _until(body: messages.Status, now: int) -> int | None:
    """When a sleep ends, ms since the epoch; raises Refused."""
    check_ahead(body.until, "until", now)
    if body.for_s is not None:
        return now + int(body.for_s * 1000)
    return None if body.until is None else int(body.until)
