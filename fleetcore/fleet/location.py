"""Positions of devices: the newest by event time, in any order of arrival."""

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Location
from fleetcore.model.message import Accepted, Handler, MessageType, Outcome, PointRefusal, Rejected, Request
from fleetcore.model.store import Commit, Event
from fleetcore.wire import messages
from fleetcore.wire.bodies import Many


@frozen(kw_only=True)
class Position:
    """A device's newest position; ``version`` as for every record."""

    device: str
    location: Location
    version: int = 0


class Locations:
    """Stores positions and returns a device's newest one."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._clock, self._limits = clock, limits
        self._records = Repository(storage, "position", Position, key="device")

    async def of(self, device: str) -> Location | None:
        """The newest position, or None."""
        found = await self._records.get(device)
        return None if found is None else found.location

    def first(self, device: str, location: Location, actor: str) -> Commit:
        """The commit that sets a new device's position, to be part of its registration."""
        now = self._clock.now_ms()
        set_now = Location(lat=location.lat, lon=location.lon, time=now, source="manual")
        put = self._records.put(Position(device=device, location=set_now))
        return Commit(puts=(put,)) + _updated(device, set_now, now, actor)

    async def placing(self, device: str, location: Location, actor: str) -> Commit:
        """The commit that sets a device's position by hand, to be part of a larger commit.

        A newer reading, from the device or an operator, replaces it; it does not replace a reading from the future.
        """
        now = self._clock.now_ms()
        set_now = Location(lat=location.lat, lon=location.lon, time=now, source="manual")
        old = await self._records.get(device)
        if old is None:
            return self.first(device, location, actor)
        if (old.location.time or 0) > now:
            return Commit()
        return self._records.changing(old, evolve(old, location=set_now)) + _updated(device, set_now, now, actor)

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' reports of their positions."""
        return {messages.LOCATION: self._received}

    async def _received(self, request: Request, body: Many) -> Outcome:
        return await self.update(request.subject, body, body.refused)

    async def update(
        self, device: str, positions: Sequence[messages.Position], refused: Sequence[PointRefusal] = ()
    ) -> Outcome:
        """Positions of a device (wire.md §5.2): the newest counts, and those from the future go to ``refused``."""
        now = self._clock.now_ms()
        good: list[Location] = []
        bad = list(refused)
        taken = {point.index for point in refused}
        places = (index for index in range(len(positions) + len(taken)) if index not in taken)
        for index, position in zip(places, positions, strict=True):
            if position.time is not None and position.time > now + self._limits.future_ms:
                bad.append(PointRefusal(index, "location", "time_in_future"))
            else:
                good.append(_location(position, now))
        bad.sort(key=lambda point: point.index)
        if not good:
            return Rejected(code=bad[0].code, reason="No position could be stored", refused=tuple(bad))
        newest = max(good, key=lambda item: item.time or 0)

        async def load() -> Position:
            return await self._records.get(device) or Position(device=device, location=newest)

        def step(old: Position) -> tuple[Position, Sequence[Event]] | None:
            # Of two readings with the same time the first stays.
            if old.version and (old.location.time or 0) >= (newest.time or 0):
                return None
            return evolve(old, location=newest), _updated(device, newest, now, device).events

        async with self._records.turn(device):
            await self._records.compare_and_set(load, step)
        return Accepted(stored=len(good), refused=tuple(bad))


def _location(position: messages.Position, now: int) -> Location:
    return Location(
        lat=position.lat,
        lon=position.lon,
        time=now if position.time is None else int(position.time),
        source=position.source,
        accuracy_m=position.accuracy_m,
        alt_m=position.alt_m,
        speed_mps=position.speed_mps,
        heading=position.heading,
    )


def _updated(device: str, location: Location, now: int, actor: str) -> Commit:
    data = {"lat": location.lat, "lon": location.lon, "time": location.time}
    return Commit(events=(Event(type="location.updated", subject=device, time=now, actor=actor, data=data),))
