"""Where devices are: the newest position by event time, whatever the order of arrival."""

import math
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from fleetcore.fleet.repository import Repository
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.device import Location
from fleetcore.model.message import Accepted, Outcome, PointRefusal, Rejected
from fleetcore.model.store import Commit, Event
from fleetcore.wire.times import time_or_code

_MOST = 1000  # positions in one message, WIRE.md §8
_SOURCES = frozenset({"gnss", "cell", "wifi", "manual"})
_BOUNDS = {
    "accuracy_m": (0.0, 4e7),
    "alt_m": (-12_000.0, 1e8),
    "speed_mps": (0.0, 1e5),
    "heading": (0.0, 360.0),
}


@frozen(kw_only=True)
class Position:
    """A device's newest position; ``version`` as for every record."""

    device: str
    location: Location
    version: int = 0


class Locations:
    """Takes positions in and answers where a device is."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._clock, self._limits = clock, limits
        self._records = Repository(storage, "position", Position, key="device")

    async def of(self, device: str) -> Location | None:
        """The newest position, or None."""
        found = await self._records.get(device)
        return None if found is None else found.location

    def first(self, device: str, location: Location, actor: str) -> Commit:
        """What sets a new device's position, to be part of its registration."""
        now = self._clock.now_ms()
        set_now = Location(lat=location.lat, lon=location.lon, time=now, source="manual")
        put = self._records.put(Position(device=device, location=set_now))
        return Commit(puts=(put,)) + _updated(device, set_now, now, actor)

    async def placing(self, device: str, location: Location, actor: str) -> Commit:
        """What sets a device's position by hand, to be part of a larger commit.

        A newer reading, from the device or an operator, replaces it; a reading from the future stays.
        """
        now = self._clock.now_ms()
        set_now = Location(lat=location.lat, lon=location.lon, time=now, source="manual")
        old = await self._records.get(device)
        if old is None:
            return self.first(device, location, actor)
        if (old.location.time or 0) > now:
            return Commit()
        return self._records.changing(old, evolve(old, location=set_now)) + _updated(device, set_now, now, actor)

    async def update(self, device: str, body: object) -> Outcome:
        """A device's position or a list of at most 1,000 (WIRE.md §8); bad ones are refused one by one."""
        items = body if isinstance(body, list) else [body]
        if len(items) > _MOST:
            return Rejected(
                code="limit_exceeded", reason="Too many positions", limit=_MOST, unit="positions", scope="message"
            )
        now = self._clock.now_ms()
        good: list[Location] = []
        refused: list[PointRefusal] = []
        for i, item in enumerate(items):
            parsed = self._parse(item, now)
            if isinstance(parsed, str):
                refused.append(PointRefusal(i, "location", parsed))
            else:
                good.append(parsed)
        if not good:
            code = refused[0].code if refused else "schema_invalid"
            return Rejected(code=code, reason="No position could be taken", refused=tuple(refused))
        newest = max(good, key=lambda one: one.time or 0)

        async def load() -> Position:
            return await self._records.get(device) or Position(device=device, location=newest)

        def step(old: Position) -> tuple[Position, Sequence[Event]] | None:
            # Of two readings of one time the first stands.
            if old.version and (old.location.time or 0) >= (newest.time or 0):
                return None
            return evolve(old, location=newest), _updated(device, newest, now, device).events

        await self._records.settle(load, step)
        return Accepted(stored=len(good), refused=tuple(refused))

    def _parse(self, item: object, now: int) -> Location | str:
        if not isinstance(item, Mapping):
            return "schema_invalid"
        lat, lon = item.get("lat"), item.get("lon")
        if not _within(lat, -90, 90) or not _within(lon, -180, 180):
            return "schema_invalid"
        time: int | str = now
        if item.get("time") is not None:
            time = time_or_code(item["time"])
            if isinstance(time, str):
                return time
            if time > now + self._limits.future_ms:
                return "time_in_future"
        values: dict[str, float] = {}
        for name, (low, high) in _BOUNDS.items():
            value = item.get(name)
            if value is None:
                continue
            if not _within(value, low, high):
                return "schema_invalid"
            values[name] = float(value)
        source = item.get("source")
        if source is not None and not (isinstance(source, str) and source in _SOURCES):
            return "schema_invalid"
        return Location(lat=float(lat), lon=float(lon), time=time, source=source, **values)  # type: ignore[arg-type]  # _within saw numbers


def _updated(device: str, location: Location, now: int, actor: str) -> Commit:
    data = {"lat": location.lat, "lon": location.lon, "time": location.time}
    return Commit(events=(Event(type="location.updated", subject=device, time=now, actor=actor, data=data),))


def _within(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )
