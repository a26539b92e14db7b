"""Marks: which entities a mirror has yet to bring to its hub, kept in the store.

A mark says only that an entity may differ; what is sent is its state at that time, so a hundred changes are one
mark. A mark is deleted by the commit that keeps the hub's answer: whatever is killed, it is looked at again.
"""

from collections.abc import Iterable, Mapping, Sequence

from fleetcore.interfaces.storage import Storage
from fleetcore.model.mirror import EntityKey, Facet
from fleetcore.model.store import Commit, Counter, Delete, Put

KIND = "mirror_mark"
_SORT = "{:017d}"


def waiting_counter(mirror: str) -> Counter:
    """Counts a mirror's marks."""
    return f"mirror/{mirror}", "waiting"


class Marks:
    """The marks of one mirror. Its commits take turns: the caller sees to that."""

    def __init__(self, mirror: str, storage: Storage) -> None:
        self._mirror, self._storage = mirror, storage

    def _key(self, key: EntityKey) -> str:
        return f"{self._mirror}/{key}"

    async def adding(self, keys: Iterable[EntityKey], now_ms: int) -> Commit:
        """What marks those that are not marked yet. A mark that there is keeps its place in the order."""
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
        """What takes back the marks of some entities, each of which has one."""
        return Commit(
            deletes=tuple(Delete(kind=KIND, key=self._key(key)) for key in keys),
            add={waiting_counter(self._mirror): -len(keys)} if keys else {},
        )

    async def page(self, after: str | None, limit: int) -> tuple[Sequence[EntityKey], str | None]:
        """The next marked entities, those that have waited longest first."""
        found = await self._storage.find(KIND, ref=("mirror", self._mirror), after=after, limit=limit)
        return [_entity(record.body) for record in found.items], found.after

    async def oldest_ms(self) -> int | None:
        """Since when the one that has waited longest has waited, ms since the epoch; None where there is none."""
        found = await self._storage.find(KIND, ref=("mirror", self._mirror), limit=1)
        return int(found.items[0].body["since"]) if found.items else None  # type: ignore[call-overload]  # see adding()

    async def waiting(self) -> int:
        """How many there are."""
        space, name = waiting_counter(self._mirror)
        return (await self._storage.counters(space)).get(name, 0)


def _entity(body: Mapping[str, object]) -> EntityKey:
    facet: Facet = body["facet"]  # type: ignore[assignment]  # written by adding()
    return EntityKey(facet, str(body["id"]))
