"""The entities that a mirror still has to send to its hub, saved in the store.

A pending entity may differ at the hub; its state at sending time is sent, so a hundred changes are one row here. The
commit that records the hub's answer deletes the row: after a crash the entity is compared again.
"""

from collections.abc import Iterable, Mapping, Sequence

from fleetcore.interfaces.storage import Storage
from fleetcore.model.mirror import EntityKey, Facet
from fleetcore.model.store import Commit, Counter, Delete, Put

KIND = "mirror_mark"
_SORT = "{:017d}"


def waiting_counter(mirror: str) -> Counter:
    """The counter of a mirror's pending entities."""
    return f"mirror/{mirror}", "waiting"


class PendingEntities:
    """The pending entities of one mirror. The caller serialises its commits."""

    def __init__(self, mirror: str, storage: Storage) -> None:
        self._mirror, self._storage = mirror, storage

    def _key(self, key: EntityKey) -> str:
        return f"{self._mirror}/{key}"

    async def adding(self, keys: Iterable[EntityKey], now_ms: int) -> Commit:
        """The changes that make entities pending. One that is already pending keeps its place in the order."""
        wanted = {self._key(key): key for key in keys}
        there = await self._storage.get_many(KIND, wanted)
        new = [key for at, key in wanted.items() if at not in there]
        puts = [
            Put(
                kind=KIND,
                key=self._key(key),
                body={"facet": key.facet, "id": key.id, "since": now_ms},
                refs=frozenset({("mirror", self._mirror)}),
                sort=_SORT.format(now_ms),
            )
            for key in new
        ]
        return Commit(puts=tuple(puts), add={waiting_counter(self._mirror): len(puts)} if puts else {})

    def removing(self, keys: Sequence[EntityKey]) -> Commit:
        """The changes after which some pending entities are no longer pending."""
        return Commit(
            deletes=tuple(Delete(kind=KIND, key=self._key(key)) for key in keys),
            add={waiting_counter(self._mirror): -len(keys)} if keys else {},
        )

    async def page(self, after: str | None, limit: int) -> tuple[Sequence[EntityKey], str | None]:
        """The next pending entities, the longest waiting first."""
        found = await self._storage.find(KIND, ref=("mirror", self._mirror), after=after, limit=limit)
        return [_entity(record.body) for record in found.items], found.after

    async def oldest_ms(self) -> int | None:
        """When the longest waiting entity became pending, ms since the epoch; None without pending entities."""
        found = await self._storage.find(KIND, ref=("mirror", self._mirror), limit=1)
        return int(found.items[0].body["since"]) if found.items else None  # type: ignore[call-overload]  # see adding()

    async def waiting(self) -> int:
        """The number of pending entities."""
        space, name = waiting_counter(self._mirror)
        return (await self._storage.counters(space)).get(name, 0)


def _entity(body: Mapping[str, object]) -> EntityKey:
    facet: Facet = body["facet"]  # type: ignore[assignment]  # written by adding()
    return EntityKey(facet, str(body["id"]))
