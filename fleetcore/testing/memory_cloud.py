"""A cloud hub in memory: a complete :class:`~fleetcore.interfaces.cloud.CloudBackend`, with faults.

:class:`MemoryHub` is the remote side: tests inspect it, change it independently of the mirror, and break it.
:class:`MemoryCloud` is the mirror's client. The limits are those of real hubs, reduced.
"""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from attrs import evolve, field, frozen, mutable

from fleetcore.errors import CredentialsRejected, Unavailable
from fleetcore.interfaces.cloud import (
    Arrived,
    CloudBackend,
    CloudChange,
    CloudCommand,
    CloudLimits,
    Fitted,
    MirrorItem,
    MirrorResult,
    Sent,
    Unowned,
)
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import BODIES, FACETS, EntityKey, Facet, Loss
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore.wire.records import from_plain, to_plain
from fleetcore.wire.strict_json import dumps

#: Twins of the large hubs have 8 to 32 KiB per section.
MAX_BODY_BYTES = 8 * 1024
#: Characters with a special meaning in keys of hubs.
FORBIDDEN_IN_KEYS = ".$#"

#: Whether a client says that readings must wait for their device.
READINGS_AFTER_DEVICE = False

Body = dict[str, object]


@frozen
class SentReading:
    """A reading as it arrived at the hub."""

    device: str
    metric: str
    time: int
    value: float | str


@frozen
class Held:
    """An entity at the hub; ``owner`` is the mark of the fleet that created it, or empty."""

    version: int
    body: Body
    owner: str = ""


@mutable
class MemoryHub:
    """The remote side.

    Attributes:
        held: the entities.
        telemetry: readings in order of arrival.
        calls: how many calls arrived, also refused ones; ``writes`` counts the effective ones by entity.
        answer_s: how long an answer takes, on the loop's clock.
    """

    held: dict[EntityKey, Held] = field(factory=dict)
    telemetry: list[SentReading] = field(factory=list)
    events: list[CloudCommand | CloudChange] = field(factory=list)
    calls: int = 0
    writes: Counter[EntityKey] = field(factory=Counter)
    answer_s: float = 0.0
    _throttled: int = 0
    _retry_after_s: float = 1.0
    _slow: set[EntityKey] = field(factory=set)
    _down: bool = False
    _locked: bool = False
    _losing: int = 0
    _answered_first: int = 0
    _capacity: int | None = None
    _last_version: int = 0

    def edit(self, key: EntityKey, body: Mapping[str, object] | None, *, owner: str | None = None) -> None:
        """Changes the hub independently of the mirror; None removes the entity. The mark stays, unless one is given."""
        if body is None:
            self.held.pop(key, None)
            return
        # Versions never repeat, so that an entity that was removed and created again is a different one.
        self._last_version += 1
        old = self.held.get(key)
        mark = owner if owner is not None else old.owner if old is not None else ""
        self.held[key] = Held(self._last_version, copy.deepcopy(dict(body)), mark)

    def body(self, key: EntityKey) -> Body | None:
        """The hub's state, or None."""
        held = self.held.get(key)
        return None if held is None else copy.deepcopy(held.body)

    def throttle(self, items: int = 1 << 60, retry_after_s: float = 1.0) -> None:
        """Throttles the next ``items`` items."""
        self._throttled, self._retry_after_s = items, retry_after_s

    def throttle_entity(self, *keys: EntityKey) -> None:
        """Throttles these, and no others."""
        self._slow.update(keys)

    def limit_telemetry(self, readings: int | None) -> None:
        """Accepts at most this many readings per call; None for all."""
        self._capacity = readings

    def go_down(self) -> None:
        """Stops answering."""
        self._down = True

    def lose_answers(self, calls: int, *, after: int = 0) -> None:
        """Executes the next calls without answering them, ``after`` this many answered ones."""
        self._losing, self._answered_first = calls, after

    def reject_credentials(self) -> None:
        """Rejects all credentials from now on."""
        self._locked = True

    def heal(self) -> None:
        """Ends all faults."""
        self._throttled, self._down, self._locked, self._capacity, self._losing = 0, False, False, None, 0
        self._slow.clear()

    async def enter(self) -> None:
        """Called for each call; raises the requested faults."""
        self.calls += 1
        if self.answer_s:
            await asyncio.sleep(self.answer_s)
        if self._down:
            raise Unavailable("The hub in memory is down", retry_after_s=self._retry_after_s, code="not_ready")
        if self._locked:
            raise CredentialsRejected("The hub in memory rejects the credentials", remedy="Heal it")

    def leave(self) -> None:
        """Called for each answer; raises if it is lost."""
        if self._losing and self._answered_first:
            self._answered_first -= 1
        elif self._losing:
            self._losing -= 1
            raise Unavailable("The answer of the hub in memory was lost", retry_after_s=0.1, code="not_ready")

    def turns_away(self, key: EntityKey) -> float | None:
        """Whether an item is throttled: seconds until it may be retried, or None."""
        if key in self._slow:
            return self._retry_after_s
        if self._throttled <= 0:
            return None
        self._throttled -= 1
        return self._retry_after_s

    def take(self, readings: Sequence[SentReading]) -> int:
        """Accepts readings, as many as its capacity allows; returns how many."""
        taken = readings if self._capacity is None else readings[: self._capacity]
        self.telemetry.extend(taken)
        return len(taken)


class MemoryCloud(CloudBackend):
    """A mirror's client of a :class:`MemoryHub`; ``owner`` is the mark of its fleet."""

    def __init__(
        self, hub: MemoryHub | None = None, *, owner: str = "fleet", limits: CloudLimits | None = None
    ) -> None:
        self.hub = MemoryHub() if hub is None else hub
        self._owner = owner
        self.limits = limits or CloudLimits(
            items=10,
            parallel=2,
            readings=100,
            facets=frozenset(FACETS),
            commands=True,
            imports=True,
            readings_after_device=READINGS_AFTER_DEVICE,
        )

    def fit(self, item: MirrorItem) -> Fitted:
        if item.body is None:
            return Fitted(item=item)
        plain = to_plain(item.body)
        lost = [Loss(path, "the hub does not allow the characters . $ # in a key") for path in _forbidden(plain, "")]
        if lost:
            plain = _without_forbidden(plain)
        size = len(dumps(plain))
        if size > MAX_BODY_BYTES:
            why = f"the {item.key.facet} is {size} bytes long, the hub holds {MAX_BODY_BYTES}"
            return Fitted(item=None, lost=(Loss("", why),))
        body = from_plain(item.key.facet, plain, BODIES[item.key.facet]) if lost else item.body
        return Fitted(item=evolve(item, body=body), lost=tuple(lost))

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        await self.hub.enter()
        results = [self._apply(item) for item in items]
        self.hub.leave()
        return results

    def _apply(self, item: MirrorItem) -> MirrorResult:
        wait_s = self.hub.turns_away(item.key)
        if wait_s is not None:
            return MirrorResult(state="throttled", retry_after_s=wait_s)
        held = self.hub.held.get(item.key)
        if held is not None and held.owner != self._owner:
            if held.owner or not item.adopts:
                return MirrorResult(state="foreign", reason=f"this fleet did not create {item.key}")
            if item.remote_version != str(held.version):
                self.hub.edit(item.key, held.body, owner=self._owner)
                return MirrorResult(state="conflict")
            self.hub.held[item.key] = held = evolve(held, owner=self._owner)
        wanted = None if item.body is None else to_plain(item.body)
        if wanted == (None if held is None else held.body):
            return self._done(item)  # already so
        if item.remote_version != (None if held is None else str(held.version)):
            return MirrorResult(state="conflict")
        self.hub.edit(item.key, wanted, owner=self._owner)
        self.hub.writes[item.key] += 1
        return self._done(item)

    def _done(self, item: MirrorItem) -> MirrorResult:
        held = self.hub.held.get(item.key)
        return MirrorResult(state="done", remote_version=None if held is None else str(held.version))

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        await self.hub.enter()
        found = [self._read(key) for key in keys]
        self.hub.leave()
        return found

    def _read(self, key: EntityKey) -> MirrorItem | None:
        held = self.hub.held.get(key)
        if held is None or held.owner != self._owner:
            return None
        return self._as_item(key, held)

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        await self.hub.enter()
        for key in sorted(key for key, held in self.hub.held.items() if held.owner == self._owner):
            if key.facet == facet:
                yield key

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        await self.hub.enter()
        keys = sorted(key for key, held in self.hub.held.items() if held.owner != self._owner)
        listed = [key for facet in ("group", "registry") for key in keys if key.facet == facet]
        # By key: adopted entities leave the list, and a list by number would skip as many.
        rest = [key for key in listed if after is None or _place(key) > after]
        page = rest[: self.limits.items]
        found = [self._unowned(key) for key in page]
        self.hub.leave()
        return found, _place(page[-1]) if len(rest) > len(page) else None

    def _unowned(self, key: EntityKey) -> Unowned:
        held = self.hub.held[key]
        reason = f"It belongs to another fleet, {held.owner!r}" if held.owner else ""
        return Unowned(name=key.id, key=key, reason=reason, held=self._as_item(key, held))

    def _as_item(self, key: EntityKey, held: Held) -> MirrorItem:
        body = from_plain(key.facet, copy.deepcopy(held.body), BODIES[key.facet])
        return MirrorItem(key=key, body=body, remote_version=str(held.version))

    async def read_unowned(self, found: Sequence[Unowned]) -> Sequence[Sequence[MirrorItem]]:
        await self.hub.enter()
        states = []
        for each in found:
            assert each.key is not None
            keys = [each.key] if each.key.facet == "group" else [each.key, EntityKey("twin", each.key.id)]
            states.append([self._as_item(key, self.hub.held[key]) for key in keys if key in self.hub.held])
        self.hub.leave()
        return states

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        await self.hub.enter()
        readings = []
        for index, time, value in zip(batch.series.tolist(), batch.time.tolist(), batch.value.tolist(), strict=True):
            series = catalog.series(index)
            readings.append(SentReading(series.device, series.metric, time, value))
        taken = self.hub.take(readings)
        self.hub.leave()
        return Sent(taken=taken, rest=range(taken, len(readings)), retry_after_s=0.1 if taken < len(readings) else 0.0)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        await self.hub.enter()
        series = [catalog.series(text.series) for text in texts]
        readings = [
            SentReading(of.device, of.metric, text.time, text.value) for of, text in zip(series, texts, strict=True)
        ]
        taken = self.hub.take(readings)
        self.hub.leave()
        return Sent(taken=taken, rest=range(taken, len(readings)), retry_after_s=0.1 if taken < len(readings) else 0.0)

    async def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        at = 0 if after is None else int(after)
        while True:
            await self.hub.enter()
            while at < len(self.hub.events):
                events = self.hub.events[at : at + self.limits.items]
                at += len(events)
                yield Arrived(events=events, position=str(at))
            await asyncio.sleep(0.01)

    async def check(self) -> Sequence[Finding]:
        try:
            await self.hub.enter()
        except (Unavailable, CredentialsRejected) as error:
            return (Finding(state="problem", what="hub", detail=str(error), remedy=error.remedy or "Heal it"),)
        return (Finding(state="ok", what="hub", detail="it answers"),)


def _place(key: EntityKey) -> str:
    """Each group's before those of devices."""
    return f"{key.facet == 'registry':d}{key.id}"


def _is_forbidden(key: str) -> bool:
    return any(char in key for char in FORBIDDEN_IN_KEYS)


def _forbidden(body: Mapping[str, object], path: str) -> list[str]:
    found = []
    for key, value in body.items():
        at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if _is_forbidden(key):
            found.append(at)
        elif isinstance(value, Mapping):
            found += _forbidden(value, at)
    return found


def _without_forbidden(body: Mapping[str, object]) -> Body:
    return {
        key: _without_forbidden(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for key, value in body.items()
        if not _is_forbidden(key)
    }
