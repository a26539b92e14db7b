"""A cloud hub in memory: all of :class:`~fleetcore.interfaces.cloud.CloudBackend`, with faults to be switched on.

:class:`MemoryHub` is the remote side: tests look at it, change it behind the mirror's back and break it.
:class:`MemoryCloud` is the client that a mirror is given. Limits are those that real hubs have, made small.
"""

import copy
from collections.abc import Mapping, Sequence

from attrs import field, frozen, mutable

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import CloudBackend, Facet, MirrorItem, MirrorResult
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch
from fleetcore.wire.strict_json import dumps

#: Twins of the large hubs hold 8 to 32 KiB a section.
LARGEST_BODY_BYTES = 8 * 1024
#: Characters that hubs give a meaning of their own in keys.
FORBIDDEN_IN_KEYS = ".$#"

Body = dict[str, object]


@frozen
class SentReading:
    """A reading as it arrived at the hub."""

    device: str
    metric: str
    time: int
    value: float


@mutable
class MemoryHub:
    """The remote side.

    Attributes:
        facets: entity and facet → version and body.
        telemetry: readings in the order they arrived.
        calls: how many calls arrived, refused ones included.
    """

    facets: dict[tuple[str, Facet], tuple[int, Body]] = field(factory=dict)
    telemetry: list[SentReading] = field(factory=list)
    calls: int = 0
    _throttled: int = 0
    _retry_after_s: float = 1.0
    _down: bool = False
    _locked: bool = False
    _capacity: int | None = None
    _last_version: int = 0

    def edit(self, entity: str, facet: Facet, body: Mapping[str, object] | None) -> None:
        """Somebody else changes the hub; None removes the facet."""
        if body is None:
            self.facets.pop((entity, facet), None)
            return
        # Versions never come back, so that a facet that was removed and made anew is another one.
        self._last_version += 1
        self.facets[entity, facet] = (self._last_version, copy.deepcopy(dict(body)))

    def body(self, entity: str, facet: Facet) -> Body | None:
        """What the hub holds, or None."""
        held = self.facets.get((entity, facet))
        return None if held is None else copy.deepcopy(held[1])

    def throttle(self, items: int = 1 << 60, retry_after_s: float = 1.0) -> None:
        """Turns the next ``items`` items away."""
        self._throttled, self._retry_after_s = items, retry_after_s

    def limit_telemetry(self, readings: int | None) -> None:
        """Takes at most so many readings of one call; None for all."""
        self._capacity = readings

    def go_down(self) -> None:
        """Answers nothing any more."""
        self._down = True

    def reject_credentials(self) -> None:
        """Lets nobody in any more."""
        self._locked = True

    def heal(self) -> None:
        """Ends all faults."""
        self._throttled, self._down, self._locked, self._capacity = 0, False, False, None

    def enter(self) -> None:
        """One call arrives; raises as the faults demand."""
        self.calls += 1
        if self._down:
            raise Unavailable("The hub in memory is down", retry_after_s=self._retry_after_s, code="not_ready")
        if self._locked:
            raise CredentialsRejected("The hub in memory rejects the credentials")

    def turns_away(self) -> float | None:
        """Whether the next item is throttled: seconds until it may come again, or None."""
        if self._throttled <= 0:
            return None
        self._throttled -= 1
        return self._retry_after_s

    def take(self, readings: Sequence[SentReading]) -> int:
        """Takes readings, as many as its capacity allows; returns how many."""
        taken = readings if self._capacity is None else readings[: self._capacity]
        self.telemetry.extend(taken)
        return len(taken)


class MemoryCloud(CloudBackend):
    """A mirror's client of a :class:`MemoryHub`."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self.hub = MemoryHub() if hub is None else hub

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        self.hub.enter()
        return [self._apply(item) for item in items]

    def _apply(self, item: MirrorItem) -> MirrorResult:
        wait_s = self.hub.turns_away()
        if wait_s is not None:
            return MirrorResult(state="throttled", retry_after_s=wait_s)
        held = self.hub.facets.get((item.entity, item.facet))
        if item.body is not None and len(dumps(item.body)) > LARGEST_BODY_BYTES:
            return MirrorResult(state="invalid", reason=self.fit(item)[0])
        wanted = None if item.body is None else _without_forbidden(item.body)
        if wanted == (None if held is None else held[1]):
            # Already so: also what a repeat after a lost answer finds.
            return self._done(item)
        if item.remote_version != (None if held is None else str(held[0])):
            return MirrorResult(state="conflict", remote_version=None if held is None else str(held[0]))
        self.hub.edit(item.entity, item.facet, wanted)
        return self._done(item)

    def _done(self, item: MirrorItem) -> MirrorResult:
        held = self.hub.facets.get((item.entity, item.facet))
        return MirrorResult(
            state="done", remote_version=None if held is None else str(held[0]), lost=tuple(self.fit(item))
        )

    async def read(self, entity: str, facet: Facet) -> MirrorItem | None:
        self.hub.enter()
        held = self.hub.facets.get((entity, facet))
        if held is None:
            return None
        return MirrorItem(entity=entity, facet=facet, body=copy.deepcopy(held[1]), remote_version=str(held[0]))

    async def send_telemetry(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> int:
        self.hub.enter()
        readings = []
        for index, time, value in zip(batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True):
            series = catalog.series(index)
            readings.append(SentReading(series.device, series.metric, time, value))
        return self.hub.take(readings)

    def fit(self, item: MirrorItem) -> Sequence[str]:
        if item.body is None:
            return ()
        size = len(dumps(item.body))
        if size > LARGEST_BODY_BYTES:
            return (f"the {item.facet} is {size} bytes long, the hub holds {LARGEST_BODY_BYTES}",)
        return tuple(f"the key {key!r} has a character that the hub forbids" for key in _forbidden(item.body))


def _is_forbidden(key: str) -> bool:
    return any(char in key for char in FORBIDDEN_IN_KEYS)


def _forbidden(body: Mapping[str, object]) -> list[str]:
    found = []
    for key, value in body.items():
        if _is_forbidden(key):
            found.append(key)
        elif isinstance(value, Mapping):
            found += _forbidden(value)
    return found


def _without_forbidden(body: Mapping[str, object]) -> Body:
    return {
        key: _without_forbidden(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for key, value in body.items()
        if not _is_forbidden(key)
    }
