"""Groups: static and dynamic, nested; every change of a membership is an event with its reason.

Memberships are in the store and in memory. A dynamic group is evaluated for all devices when it is made, then only for
devices that changed in a part that its query reads (:mod:`fleetcore.pipeline.membership`); both ways give the same.
Queries that depend on time are evaluated again every minute.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import evolve

from fleetcore.errors import Conflict, NotFound, Refused, VersionConflict
from fleetcore.fleet.documents import TIMED, Document
from fleetcore.fleet.nesting import Nesting, asked_for
from fleetcore.fleet.repository import Page, Pairs, Repository
from fleetcore.fleet.search import Search, parts_of
from fleetcore.fleet.shielding import Shield, shielded
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.storage import Storage
from fleetcore.model.events import GROUP_CHANGED, GROUP_JOINED, GROUP_LEFT
from fleetcore.model.group import Group, Membership
from fleetcore.model.names import check_label
from fleetcore.model.store import Commit, Delete, Event, place
from fleetcore.query.ast import Clause
from fleetcore.query.evaluate import matches
from fleetcore.query.explain import deciding, explain
from fleetcore.query.fitting import parse_new
from fleetcore.query.parse import parse
from fleetcore.query.resolve import is_timed

_MEMBERSHIP = "membership"
#: How many memberships are written in one commit.
_CHUNK = 1000


def _refs(membership: Membership) -> Pairs:
    return [("group", membership.group), ("device", membership.device)]


def _expect(group: Group, if_version: int | None) -> None:
    if if_version is not None and group.version != if_version:
        raise VersionConflict(
            f"Group {group.id!r} is at version {group.version}", version=group.version, group=group.id
        )


class Groups:
    """Makes and changes groups, and answers who is in them. Open it with :meth:`load`."""

    def __init__(self, storage: Storage, search: Search, clock: Clock) -> None:
        self._storage, self._search, self._clock = storage, search, clock
        self._records = Repository(storage, "group", Group)
        self.membership_records = Repository(
            storage, _MEMBERSHIP, Membership, key="key", refs=_refs, sort=lambda membership: membership.device
        )
        self._groups: dict[str, Group] = {}
        self._clauses: dict[str, Clause] = {}
        self._nesting = Nesting({}, {})
        self._of: dict[str, dict[str, Membership]] = defaultdict(dict)
        self._in: dict[str, set[str]] = defaultdict(set)
        # The number of devices of nested groups; dropped with any change of memberships.
        self._counts: dict[str, int] = {}
        # One change of memberships at a time: an evaluation reads the memberships that it then changes.
        self._lock = asyncio.Lock()
        self._shield = Shield()
        #: Other users of a group, by its name, which prevent its removal. :class:`Fleet` adds to it.
        self.uses: list[Callable[[str], Iterable[str]]] = []
        search.documents.groups_of = self.of
        search.documents.members_of = self.members_page

    async def load(self) -> None:
        """Loads the stored groups."""
        for group in await self._records.find():
            self._groups[group.id] = group
            if group.query is not None:
                self._clauses[group.id] = parse(group.query)
        self._nesting = Nesting(self._groups, self._clauses)
        async for membership in self.membership_records.iterate():
            self._join(membership)

    def _join(self, membership: Membership) -> None:
        self._counts.clear()
        self._of[membership.device][membership.group] = membership
        self._in[membership.group].add(membership.device)

    def _leave(self, membership: Membership) -> None:
        self._counts.clear()
        self._of[membership.device].pop(membership.group, None)
        self._in[membership.group].discard(membership.device)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, group: str) -> Group:
        """The group; raises NotFound."""
        found = self._groups.get(group)
        if found is None:
            raise NotFound(f"Group {group!r} does not exist", group=group)
        return found

    def has(self, group: str) -> bool:
        """Whether the group exists."""
        return group in self._groups

    def list(self) -> Sequence[Group]:
        """All groups by name."""
        return sorted(self._groups.values(), key=lambda group: group.id)

    async def page(self, *, after: str | None = None, limit: int = 100) -> Page[Group]:
        """The next groups by name."""
        return await self._records.page(after=after, limit=limit)

    def of(self, device: str) -> Sequence[str]:
        """The groups of a device, including those that contain one of its groups, sorted."""
        direct = self._of.get(device)
        return self._nesting.closed(direct) if direct else ()

    def outermost_first(self, device: str) -> Sequence[str]:
        """The same, each group before those inside it."""
        return sorted(self.of(device), key=lambda group: (self._nesting.depth(group), group))

    def memberships(self, device: str) -> Sequence[Membership]:
        """The groups that a device is in directly, each with since when and why."""
        return sorted(self._of.get(device, {}).values(), key=lambda item: item.group)

    def members(self, group: str) -> Sequence[str]:
        """Ids of the devices in a group or in a group inside it, sorted; raises NotFound."""
        return sorted(self._inside(group))

    def count(self, group: str) -> int:
        """The number of devices of :meth:`members`; raises NotFound."""
        found = self._counts.get(group)
        if found is None:
            found = self._counts[group] = len(self._inside(group))
        return found

    def _inside(self, group: str) -> set[str]:
        self.get(group)
        inside = self._nesting.inside[group]
        return self._in[group] if len(inside) == 1 else set().union(*(self._in[name] for name in inside))

    async def members_page(
        self, groups: Sequence[str], after: str | None = None, limit: int = 100
    ) -> tuple[Sequence[str], str | None]:
        """The next devices that are in some of the groups or inside them, and the id for the next page.

        A missing group has no members.
        """
        inside = {name for group in groups if group in self._groups for name in self._nesting.inside[group]}
        found: set[str] = set()
        more = False
        for name in inside:
            at = None if after is None else place(after, f"{after}/{name}")
            page = await self.membership_records.page(ref=("group", name), after=at, limit=limit)
            found.update(membership.device for membership in page.items)
            more = more or page.after is not None
        ids = sorted(found)
        return ids[:limit], ids[limit - 1] if len(ids) > limit or (more and len(ids) == limit) else None

    # -- changes ----------------------------------------------------------------------------------------------------

    @shielded
    async def create(
        self,
        group: str,
        *,
        query: str | None = None,
        within: Sequence[str] = (),
        description: str = "",
        actor: str = "system",
        reason: str = "",
    ) -> Group:
        """Makes a group; a dynamic one has its members when this returns.

        Raises:
            Refused: ``name_invalid``; QuerySyntaxError where the query cannot be read.
            Conflict: the name is taken, or the group would contain itself or its query refer to itself.
            NotFound: a group that is to contain it.
        """
        check_label(group, "group")
        if query is not None:
            parse_new(query)
        now = self._clock.now_ms()
        made = Group(
            id=group, query=query, within=tuple(within), description=description, created=now, updated=now
        )  # fmt: skip
        async with self._lock:
            if group in self._groups:
                raise Conflict(f"Group {group!r} exists already", group=group)
            nesting = self._checked(made)
            event = Event(type="group.created", subject=group, time=now, actor=actor, reason=reason)
            try:
                made = await self._records.create(made, [event])
            except VersionConflict as error:
                raise Conflict(f"Group {group!r} exists already", group=group) from error
            self._take(made, nesting)
            await self._refresh_after(made)
        return made

    @shielded
    async def change(
        self,
        group: str,
        *,
        query: str | None = None,
        within: Sequence[str] | None = None,
        description: str | None = None,
        if_version: int | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Group:
        """Changes the given members; a static group stays static, a dynamic one dynamic. Raises as :meth:`create`."""
        if query is not None:
            parse_new(query)
        async with self._lock:
            old = self.get(group)
            _expect(old, if_version)
            if query is not None and old.query is None:
                raise Refused(f"Group {group!r} is static", remedy="Create a dynamic group under another name")
            new = evolve(
                old,
                query=old.query if query is None else query,
                within=old.within if within is None else tuple(within),
                description=old.description if description is None else description,
                updated=self._clock.now_ms(),
            )
            nesting = self._checked(new)
            moved = {} if new.within == old.within else {"within": list(new.within)}
            event = Event(type=GROUP_CHANGED, subject=group, time=new.updated, actor=actor, reason=reason, data=moved)
            done = await self._storage.commit(
                Commit(puts=(self._records.put(new, expect=old.version),), events=(event,))
            )
            new = evolve(new, version=done.versions[0])
            self._take(new, nesting)
            await self._refresh_after(new)
        return new

    @shielded
    async def remove(
        self, group: str, *, if_version: int | None = None, actor: str = "system", reason: str = ""
    ) -> None:
        """Removes a group and its memberships; refused while another is inside it or refers to it."""
        async with self._lock:
            _expect(self.get(group), if_version)
            users = sorted(
                item.id
                for item in self._groups.values()
                if group in item.within or (item.id in self._clauses and group in asked_for(self._clauses[item.id]))
            )
            users += [name for used in self.uses for name in used(group)]
            if users:
                raise Conflict(
                    f"Group {group!r} is used by {', '.join(users)}",
                    code="illegal_transition",
                    remedy="Change or remove these first",
                    group=group,
                )
            leaving = [self._of[device][group] for device in sorted(self._in[group])]
            await self._write((), leaving, actor, reason or "the group was removed")
            event = Event(
                type="group.removed", subject=group, time=self._clock.now_ms(), actor=actor, reason=reason
            )  # fmt: skip
            await self._storage.commit(Commit(deletes=(Delete(kind="group", key=group),), events=(event,)))
            del self._groups[group]
            self._clauses.pop(group, None)
            self._in.pop(group, None)
            self._nesting = Nesting(self._groups, self._clauses)
            self._counts.clear()

    def check_static(self, group: str) -> None:
        """Raises NotFound, or Refused where the group is dynamic."""
        if self.get(group).query is not None:
            raise Refused(
                f"Group {group!r} is dynamic: its query selects its members",
                remedy="Change its query, or the devices",
                group=group,
            )

    async def add(self, group: str, devices: Iterable[str], *, actor: str = "system", reason: str = "") -> int:
        """Adds devices to a static group; returns how many were not in it. Raises NotFound if one is not registered."""
        return await self._put(group, devices, actor, reason, add=True)

    async def take_out(self, group: str, devices: Iterable[str], *, actor: str = "system", reason: str = "") -> int:
        """Removes devices from a static group; returns how many were in it."""
        return await self._put(group, devices, actor, reason, add=False)

    @shielded
    async def _put(self, group: str, devices: Iterable[str], actor: str, reason: str, *, add: bool) -> int:
        async with self._lock:
            self.check_static(group)
            wanted = dict.fromkeys(devices)
            changing = [item for item in wanted if (group in self._of.get(item, {})) is not add]
            if add:
                for device in changing:
                    if await self._storage.get("device", device) is None:
                        raise NotFound(f"Device {device!r} does not exist; no device was added", device=device)
            now = self._clock.now_ms()
            why = reason or f"added by {actor}"
            joining = [Membership(device=item, group=group, since=now, why=why) for item in changing] if add else []
            leaving = [] if add else [self._of[item][group] for item in changing]
            await self._write(joining, leaving, actor, reason)
            await self._follow(changing)
            return len(changing)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @property
    def looks_at(self) -> frozenset[str]:
        """The parts of documents that some dynamic group reads."""
        return frozenset().union(*(parts_of(clause) for clause in self._clauses.values()))

    async def evaluate(self, device: str, changed: frozenset[str] | None = None) -> None:
        """Updates one device's memberships after a change in some parts of its document (None: all)."""
        async with self._lock:
            await self._evaluate(device, changed)

    async def refresh(self, *groups: str) -> None:
        """Evaluates dynamic groups, all without names, for every device."""
        async with self._lock:
            await self._refresh(frozenset(groups) or frozenset(self._clauses))

    async def tick(self) -> None:
        """Evaluates the groups whose result the passing of time may change."""
        timed = [name for name, clause in self._clauses.items() if is_timed(clause) or parts_of(clause) & TIMED]
        if timed:
            await self.refresh(*timed)

    async def wait_idle(self) -> None:
        """Returns when memory includes everything committed before the call."""
        async with self._lock:
            return

    def _checked(self, group: Group) -> Nesting:
        clauses = dict(self._clauses)
        if group.query is not None:
            clauses[group.id] = parse(group.query)
        return Nesting({**self._groups, group.id: group}, clauses)

    def _take(self, group: Group, nesting: Nesting) -> None:
        self._groups[group.id] = group
        if group.query is not None:
            self._clauses[group.id] = parse(group.query)
        self._nesting = nesting
        self._counts.clear()

    async def _refresh_after(self, group: Group) -> None:
        """Evaluates a new or changed group, and every query that refers to groups."""
        names = {name for name, clause in self._clauses.items() if "groups" in parts_of(clause)}
        await self._refresh(frozenset(names | ({group.id} if group.query is not None else set())))

    async def _refresh(self, names: frozenset[str]) -> None:
        if not names:
            return
        order = [name for name in self._nesting.order if name in names]
        parts = frozenset().union(*(parts_of(self._clauses[name]) for name in order))
        joining: list[Membership] = []
        leaving: list[Membership] = []
        resolved = self._resolved(order)
        async for document in self._search.documents.iterate(parts):
            more, fewer = self._compare(document, order, resolved)
            joining += more
            leaving += fewer
            if len(joining) + len(leaving) >= _CHUNK:
                await self._write(joining, leaving, "system", "")
                joining, leaving = [], []
        await self._write(joining, leaving, "system", "")

    async def _follow(self, devices: Iterable[str]) -> None:
        """After a change of static memberships: evaluates the queries that refer to groups."""
        if "groups" in self.looks_at:
            for device in devices:
                await self._evaluate(device, frozenset({"groups"}))

    async def _evaluate(self, device: str, changed: frozenset[str] | None) -> None:
        first = [item for item in self._nesting.order if changed is None or parts_of(self._clauses[item]) & changed]
        if not first and self._of.get(device) is None:
            return
        # The result of a query that refers to groups may change because of one before it.
        wanted = {*first, *(item for item in self._nesting.order if "groups" in parts_of(self._clauses[item]))}
        order = [item for item in self._nesting.order if item in wanted]
        parts = frozenset().union(*(parts_of(self._clauses[name]) for name in order))
        document = await self._search.documents.of(device, parts)
        if document is None:
            await self._write((), list(self._of.get(device, {}).values()), "system", "the device is gone")
            return
        more, fewer = self._compare(document, order, self._resolved(order))
        await self._write(more, fewer, "system", "")

    def _resolved(self, names: Iterable[str]) -> Mapping[str, Clause]:
        return {name: self._search.resolved(self._clauses[name]) for name in names}

    def _compare(
        self, document: Document, order: Sequence[str], clauses: Mapping[str, Clause]
    ) -> tuple[Sequence[Membership], Sequence[Membership]]:
        """The joins and leaves, in the order in which the queries depend on each other."""
        device = str(document["id"])
        before = self._of.get(device, {})
        direct = set(before)
        now = self._clock.now_ms()
        joining, leaving = [], []
        for name in order:
            seen = {**document, "groups": self._nesting.closed(direct)}
            inside = matches(clauses[name], seen)
            if inside is (name in direct):
                continue
            why = _why(clauses[name], seen)
            if inside:
                direct.add(name)
                joining.append(Membership(device=device, group=name, since=now, why=why))
            else:
                direct.discard(name)
                leaving.append(evolve(before[name], why=why))
        return joining, leaving

    async def _write(
        self, joining: Sequence[Membership], leaving: Sequence[Membership], actor: str, reason: str
    ) -> None:
        now = self._clock.now_ms()
        both = [(GROUP_JOINED, item) for item in joining] + [(GROUP_LEFT, item) for item in leaving]
        for at in range(0, len(both), _CHUNK):
            part = both[at : at + _CHUNK]
            await self._storage.commit(
                Commit(
                    puts=tuple(self.membership_records.put(item) for kind, item in part if kind is GROUP_JOINED),
                    deletes=tuple(Delete(kind=_MEMBERSHIP, key=item.key) for kind, item in part if kind is GROUP_LEFT),
                    events=tuple(
                        Event(
                            type=kind,
                            subject=item.device,
                            time=now,
                            actor=actor,
                            reason=reason or item.why,
                            data={"group": item.group, "why": item.why},
                        )
                        for kind, item in part
                    ),
                )
            )
            for kind, item in part:
                if kind is GROUP_JOINED:
                    self._join(item)
                else:
                    self._leave(item)


def _why(clause: Clause, document: Document) -> str:
    """The clause that decided and the value it saw: ``power.battery < 20 (12)``."""
    item = deciding(explain(clause, document))
    if item.path is None:
        return item.clause
    return f"{item.clause} ({item.seen!r})" if item.present else f"{item.clause} (absent)"
