"""The recorded state of each entity of a mirror: the hub's version, what was sent last, and what did not fit there."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from attrs import evolve

from fleetcore.interfaces.storage import Storage
from fleetcore.model.mirror import EntityKey, EntityState, Loss, MirrorBody
from fleetcore.model.store import Commit, Counter, Delete, Put
from fleetcore.wire.records import from_plain, to_plain

KIND = "mirror_state"
#: Losses of an entity that are recorded by name; the rest is counted.
_LOSSES = 20
#: Entities that are forgotten in one commit.
_FORGET = 200

_encoder = msgspec.json.Encoder(order="sorted")

NOTHING = EntityState()
#: The digest of an entity sent for the first time, until the hub has confirmed it.
UNCONFIRMED = ""


def digest(body: MirrorBody | None) -> str | None:
    """The digest of a body, 32 hexadecimal digits, independent of the order of its members; None for None."""
    if body is None:
        return None
    return hashlib.sha256(_encoder.encode(to_plain(body))).hexdigest()[:32]


def with_losses(recorded: EntityState, lost: Sequence[Loss]) -> EntityState:
    """The state with the members that the hub cannot hold."""
    return evolve(recorded, lost=tuple(lost[:_LOSSES]), lost_count=len(lost))


def _listed(recorded: EntityState) -> Mapping[str, bool]:
    """The lists of entities, and whether an entity is in each."""
    return {
        "invalid": recorded.invalid is not None,
        "lost": recorded.lost_count > 0,
        "paused": recorded.paused is not None,
    }


class EntityStates:
    """The recorded states of one mirror."""

    def __init__(self, mirror: str, storage: Storage) -> None:
        self._mirror, self._storage = mirror, storage

    async def get(self, key: EntityKey) -> EntityState:
        """The state of an entity; :data:`NOTHING` if it was never sent."""
        record = await self._storage.get(KIND, self._key(key))
        return NOTHING if record is None else self._load(record.body)

    async def get_many(self, keys: Iterable[EntityKey]) -> Mapping[EntityKey, EntityState]:
        """The states of some entities; :data:`NOTHING` for those never sent."""
        wanted = {self._key(key): key for key in keys}
        found = await self._storage.get_many(KIND, wanted)
        return {key: self._load(found[at].body) if at in found else NOTHING for at, key in wanted.items()}

    def _load(self, body: Mapping[str, object]) -> EntityState:
        return from_plain(KIND, body, EntityState)

    def _key(self, key: EntityKey) -> str:
        return f"mirror/{self._mirror}/{key}"

    def putting(self, key: EntityKey, old: EntityState, new: EntityState) -> Commit:
        """The changes that record it and its counters."""
        if old == new:
            return Commit()
        refs = {("mirror", self._mirror)}
        if key.device is not None:
            refs.add(("device", f"{self._mirror}/{key.device}"))
        refs |= {(name, self._mirror) for name, there in _listed(new).items() if there}
        put = Put(kind=KIND, key=self._key(key), body=to_plain(new), refs=frozenset(refs), sort=str(key))
        return Commit(puts=(put,), add=self._counts(old, new))

    def _counts(self, old: EntityState, new: EntityState) -> Mapping[Counter, int]:
        before, after = ({**_listed(item), "held": bool(item.digest)} for item in (old, new))
        changes = {name: after[name] - before[name] for name in after}
        return {(f"mirror/{self._mirror}", name): delta for name, delta in changes.items() if delta}

    async def page(
        self, only: str, after: str | None, limit: int
    ) -> tuple[Sequence[tuple[EntityKey, EntityState]], str | None]:
        """The next entities in key order that are ``invalid``, ``lost`` or ``paused``; ``mirror`` for all."""
        found = await self._storage.find(KIND, ref=(only, self._mirror), after=after, limit=limit)
        return [(self._entity(record.key), self._load(record.body)) for record in found.items], found.after

    async def of_device(self, device: str) -> Sequence[EntityKey]:
        """All entities of a device."""
        found: list[EntityKey] = []
        after: str | None = None
        while True:
            page = await self._storage.find(KIND, ref=("device", f"{self._mirror}/{device}"), after=after, limit=1000)
            found += [self._entity(record.key) for record in page.items]
            after = page.after
            if after is None:
                return found

    def _entity(self, key: str) -> EntityKey:
        facet, _, entity = key.removeprefix(f"mirror/{self._mirror}/").partition("/")
        return EntityKey(facet, entity)  # type: ignore[arg-type]  # written by putting()

    async def forget(self) -> None:
        """Deletes the recorded state of every entity, page by page."""
        while True:
            found = await self._storage.find(KIND, ref=("mirror", self._mirror), limit=_FORGET)
            if not found.items:
                return
            change = Commit()
            for record in found.items:
                change += Commit(
                    deletes=(Delete(kind=KIND, key=record.key),), add=self._counts(self._load(record.body), NOTHING)
                )
            await self._storage.commit(change)

    async def counts(self) -> Mapping[str, int]:
        """How many entities are at the hub (``held``), and how many are in each list of :meth:`page`."""
        return await self._storage.counters(f"mirror/{self._mirror}")
