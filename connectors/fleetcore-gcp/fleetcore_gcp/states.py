"""States as messages: each is the complete present state of one entity, with a version of our own that only grows.

Pub/Sub stores no states, so a receiver builds them: of two messages of an entity the one with the greater version
counts, in any order of arrival. A deleted entity is a message without a state (a tombstone).
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

from attrs import frozen

from fleetcore.interfaces.call_failed import as_results
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, Loss
from fleetcore.wire.records import to_plain
from fleetcore.wire.strict_json import dumps
from fleetcore_gcp.failures import CallFailed, missing
from fleetcore_gcp.publishing import FLEET, ID, MAX_BYTES, MAX_MESSAGES, Publisher, message
from fleetcore_gcp.topics import TOPICS, Topic, ordering_key

#: Attributes, for filters of subscriptions. Their number and lengths are far from Pub/Sub's limits (100 of them, names
#: of 256 bytes, values of 1,024), because ids of the fleet have at most 128 characters of ASCII.
FACET, ENTITY, VERSION, EVENT = "fleetcore-facet", "fleetcore-entity", "fleetcore-version", "fleetcore-event"
#: Remembered publishes with an unknown outcome; the newest.
_REMEMBERED = 10_000


@frozen(kw_only=True)
class _Tried:
    """A publish that may have been executed: its version and content."""

    version: int
    state: bytes


class States:
    """See the module.

    Args:
        fleet: its name, for people; ``mark`` identifies it.
    """

    def __init__(self, publisher: Publisher, fleet: str, mark: str, clock: Clock) -> None:
        self._publisher, self._fleet, self._mark, self._clock = publisher, fleet, mark, clock
        self._highest = 0
        self._tried: dict[EntityKey, _Tried] = {}

    def fit(self, item: MirrorItem) -> Fitted:
        """All of it, or nothing if it is too large."""
        size = len(self._data(item, 1 << 53))
        if size <= MAX_BYTES:
            return Fitted(item=item)
        reason = f"the {item.key.facet} is {size} bytes long as a message, and Pub/Sub's limit is {MAX_BYTES}"
        return Fitted(item=None, lost=(Loss("", reason),))

    def _data(self, item: MirrorItem, version: int) -> bytes:
        state = None if item.body is None else to_plain(item.body)
        plain = {"fleet": self._fleet, "facet": item.key.facet, "id": item.key.id, "version": version, "state": state}
        return dumps(plain)

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """As in the interface; items with one ordering key share requests."""
        requests: dict[tuple[Topic, str], list[int]] = {}
        for at, item in enumerate(items):
            requests.setdefault((TOPICS[item.key.facet], ordering_key(item.key)), []).append(at)
        results: dict[int, MirrorResult | BaseException] = {}

        async def publish(topic: Topic, key: str, which: Sequence[int]) -> None:
            for part in self._parts(items, which):
                try:
                    found = await self._published(topic, key, [items[at] for at in part])
                except CallFailed as failed:
                    # The key stops here: later items wait for the engine's next turn.
                    results.update(dict.fromkeys(which[which.index(part[0]) :], failed))
                    return
                results.update(zip(part, found, strict=True))

        await asyncio.gather(*(publish(topic, key, which) for (topic, key), which in requests.items()))
        done = [results[at] for at in range(len(items))]
        for result, item in zip(done, items, strict=True):
            if isinstance(result, CallFailed) and result.kind == "missing":
                raise missing(f"The topic of {TOPICS[item.key.facet]}", result) from result
        return as_results(done)

    @staticmethod
    def _parts(items: Sequence[MirrorItem], which: Sequence[int]) -> Sequence[Sequence[int]]:
        """Parts that fit into one request. A fitted state always fits alone."""
        if len(which) == 1:
            return [which]
        found: list[list[int]] = [[]]
        length = 0
        for at in which:
            body = items[at].body
            size = 1000 + (0 if body is None else len(dumps(to_plain(body))))
            if found[-1] and (length + size > MAX_BYTES or len(found[-1]) == MAX_MESSAGES):
                found.append([])
                length = 0
            found[-1].append(at)
            length += size
        return found

    async def _published(self, topic: Topic, key: str, items: Sequence[MirrorItem]) -> list[MirrorResult]:
        versions = [self._version(item) for item in items]
        made = [self._data(item, version) for item, version in zip(items, versions, strict=True)]
        messages = [
            message(data, key, self._attributes(item, version))
            for item, version, data in zip(items, versions, made, strict=True)
        ]
        await self._publisher.publish(topic, key, messages, sum(map(len, made)))
        for item in items:
            self._tried.pop(item.key, None)
        return [MirrorResult(state="done", remote_version=str(version)) for version in versions]

    def _attributes(self, item: MirrorItem, version: int) -> Mapping[str, str]:
        return {
            FLEET: self._mark,
            FACET: item.key.facet,
            ENTITY: item.key.id,
            VERSION: str(version),
            EVENT: "removed" if item.body is None else "state",
            ID: f"{item.key}@{version}",
        }

    def _version(self, item: MirrorItem) -> int:
        """Greater than any before; the same for a state whose publish had no answer.

        Microseconds of the clock, so that a fleet restored from an older backup, or one that has forgotten what it
        sent, does not reuse versions; counted on while the clock stands still or is behind.
        """
        state = hashlib.sha256(b"" if item.body is None else dumps(to_plain(item.body))).digest()
        tried = self._tried.pop(item.key, None)
        version = 0 if tried is None or tried.state != state else tried.version
        if version <= int(item.remote_version or 0):
            version = max(self._highest, int(item.remote_version or 0), self._clock.now_ms() * 1000 - 1) + 1
        self._highest = max(self._highest, version)
        self._tried[item.key] = _Tried(version=version, state=state)
        while len(self._tried) > _REMEMBERED:
            del self._tried[next(iter(self._tried))]
        return version
