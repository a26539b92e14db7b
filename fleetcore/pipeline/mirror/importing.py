"""Import: devices and groups that others created at a hub enter the fleet, page by page as an operation.

This module does the fleet's part: one commit registers a device and notes that the hub's entity is to be adopted; the
device is paused until its twin and groups are imported too. The state sender does the hub's part with its next write.
Repeating a page after a crash continues it: what the fleet already has stays as it is.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

from attrs import evolve, frozen

from fleetcore.errors import FleetError, Refused, StorageError, Unavailable
from fleetcore.fleet.adopting import Adopting
from fleetcore.fleet.operations import MAX_FAILURES, Kind, Operations
from fleetcore.fleet.shared_state import shared
from fleetcore.interfaces.cloud import CloudLimits, MirrorItem, Unowned
from fleetcore.model.mirror import EntityKey, EntityState, GroupBody, RegistryBody, TwinBody
from fleetcore.model.operation import Failure, Operation, OperationState
from fleetcore.model.store import Commit
from fleetcore.pipeline.mirror.entity_states import digest
from fleetcore.pipeline.mirror.hub import Hub
from fleetcore.pipeline.mirror.sender import StateSender
from fleetcore.wire.records import to_plain

KIND = "mirror import"

#: The reason why a device is paused until its twin and groups are imported.
_BEGUN = "Its import is under way"
#: The prefix of a group's name: its members are read once all groups and devices are imported.
_MEMBERS = "members:"
#: Groups whose members are read between two saved positions.
_GROUPS = 20


@frozen(kw_only=True)
class Judged:
    """What an import would do with an entity: ``create``, ``resume`` an unfinished one, or ``skip`` for a reason."""

    found: Unowned
    action: Literal["create", "resume", "skip"]
    reason: str = ""
    code: str = ""


class Importable(Protocol):
    """A mirror as an import uses it."""

    sender: StateSender

    async def hub(self) -> Hub:
        """The open hub."""
        ...


class CloudImports:
    """Runs import operations for all mirrors of a fleet."""

    def __init__(self, mirrors: Mapping[str, Importable], adopting: Adopting, operations: Operations) -> None:
        self._mirrors, self._adopting, self._operations = mirrors, adopting, operations
        operations.register(KIND, Kind(driver=self._drive))

    async def start(self, mirror: str, *, type: str, actor: str, reason: str) -> Operation:
        """Starts one; ``type`` is for devices without a type at the hub. Raises Refused if it cannot start."""
        self._check(mirror, await self._mirrors[mirror].hub())
        spec = {"after": None, "type": type}
        return await self._operations.start(KIND, [mirror], spec=spec, actor=actor, reason=reason)

    def _check(self, mirror: str, hub: Hub) -> None:
        if not hub.limits.imports:
            raise Refused(f"Nothing can be imported from the hub of {mirror!r}")
        if not hub.cloud.use.imports:
            raise Refused(
                f"Mirror {mirror!r} is not allowed to import", remedy=f"Add imports = true to [clouds.{mirror}]"
            )
        if "registry" not in self._mirrors[mirror].sender.facets:
            raise Refused(
                f"Mirror {mirror!r} does not mirror devices, so none can be imported",
                remedy='Add "registry" to its mirror',
            )

    async def plan(self, mirror: str, after: str | None, *, type: str) -> tuple[Sequence[Judged], str | None]:
        """What would be done with the next devices and groups of the hub, and where to continue. Changes nothing."""
        hub = await self._mirrors[mirror].hub()
        self._check(mirror, hub)
        found, following = await hub.unowned(after)
        return await self._judged(self._mirrors[mirror].sender, found, type), following

    async def _judged(self, sender: StateSender, found: Sequence[Unowned], type_: str) -> Sequence[Judged]:
        keys = [each.key for each in found if each.key is not None]
        states = await sender.states.get_many(keys)
        known = await self._adopting.known([key.id for key in keys if key.facet == "registry"])
        return [self._judge(sender, each, states, known, type_) for each in found]

    def _judge(
        self,
        sender: StateSender,
        found: Unowned,
        states: Mapping[EntityKey, EntityState],
        known: Mapping[str, object],
        type_: str,
    ) -> Judged:
        key = found.key
        if key is None or found.reason:
            return Judged(found=found, action="skip", reason=found.reason, code="name_invalid")
        there = self._adopting.has_group(key.id) if key.facet == "group" else key.id.casefold() in known
        if there and states[key].adopts:
            return Judged(found=found, action="resume")
        if there:
            what = "group" if key.facet == "group" else "device"
            reason = f"The fleet already has a {what} of that name, which was not imported"
            return Judged(found=found, action="skip", reason=reason, code="already_exists")
        if key.facet not in sender.facets:
            return Judged(found=found, action="skip", reason="The mirror does not send groups", code="not_found")
        body = None if found.held is None else found.held.body
        if isinstance(body, RegistryBody):
            try:
                self._adopting.prepared(key.id, body, type_, sender.name)
            except Refused as error:
                return Judged(found=found, action="skip", reason=str(error), code=error.code)
        return Judged(found=found, action="create")

    # -- doing it ---------------------------------------------------------------------------------------------------

    async def _drive(self, operation: Operation, items: Sequence[object]) -> Operation | None:
        mirror = self._mirrors.get(cast("str", items[0]))
        if mirror is None:
            return evolve(operation, state=OperationState.STOPPED)
        after = cast("str | None", operation.spec["after"])
        hub = await mirror.hub()
        if after is not None and after.startswith(_MEMBERS):
            return await self._join(operation, hub, mirror.sender, after.removeprefix(_MEMBERS) or None)
        found, following = await hub.unowned(after)
        judged = await self._judged(mirror.sender, found, cast("str", operation.spec["type"]))
        wanted = [each for each in judged if each.action != "skip"]
        states = await hub.read_unowned([each.found for each in wanted])
        errors: dict[str, FleetError] = {
            each.found.name: Refused(each.reason, code=each.code) for each in judged if each.action == "skip"
        }
        counts = Counter(operation.result)
        for facet in ("group", "registry"):
            its = [at for at, each in enumerate(wanted) if each.found.key is not None and each.found.key.facet == facet]
            work = [self._take(operation, hub, mirror.sender, wanted[at], states[at]) for at in its]
            for at, outcome in zip(its, await asyncio.gather(*work, return_exceptions=True), strict=True):
                if isinstance(outcome, FleetError) and not isinstance(outcome, Unavailable | StorageError):
                    errors[wanted[at].found.name] = outcome
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    counts += outcome
        if following is None and "group" in mirror.sender.facets:
            following = _MEMBERS
        return self._moved(operation, [each.found.name for each in judged], errors, counts, following)

    async def _join(self, operation: Operation, hub: Hub, sender: StateSender, after: str | None) -> Operation:
        """Puts devices into the groups that they have at the hub, if the hub lists members by group."""
        actor, reason = _by(operation, sender)
        counts = Counter(operation.result)
        groups, following = await self._adopting.groups_after(after, _GROUPS)
        for key in [EntityKey("group", group) for group in groups]:
            if not (await sender.states.get(key)).digest:
                continue
            place: str | None = None
            while True:
                devices, place = await hub.members(key, place)
                counts["members"] += await self._adopting.join(key.id, devices, actor=actor, reason=reason)
                if place is None:
                    break
        return self._moved(operation, (), {}, +counts, None if following is None else f"{_MEMBERS}{following}")

    def _moved(
        self,
        operation: Operation,
        names: Sequence[str],
        errors: Mapping[str, FleetError],
        counts: Mapping[str, int],
        following: str | None,
    ) -> Operation:
        failures = [
            Failure(item=operation.done + place + 1, about=name, code=errors[name].code, reason=str(errors[name]))
            for place, name in enumerate(names)
            if name in errors
        ]
        reasons = Counter(operation.reasons) + Counter(failure.code for failure in failures)
        done, failed = operation.done + len(names), operation.failed + len(failures)
        moved = evolve(
            operation,
            done=done,
            failed=failed,
            total=max(operation.total, done),
            failures=(*operation.failures, *failures)[:MAX_FAILURES],
            reasons=dict(reasons),
            result=dict(counts),
            spec={**operation.spec, "after": following},
        )
        if following is not None:
            return moved
        return evolve(moved, total=done, state=OperationState.PARTLY if failed else OperationState.SUCCEEDED)

    async def _take(
        self, operation: Operation, hub: Hub, sender: StateSender, judged: Judged, states: Sequence[MirrorItem]
    ) -> Counter[str]:
        """Imports one; returns the outcome."""
        by_facet = {item.key.facet: item for item in states}
        actor, reason = _by(operation, sender)
        group, device = by_facet.get("group"), by_facet.get("registry")
        if group is not None:
            return await self._take_group(hub, sender, judged, group, actor, reason)
        if device is None or not isinstance(device.body, RegistryBody):
            return Counter()  # it was deleted meanwhile
        if judged.action == "create":
            type_ = cast("str", operation.spec["type"])
            body = await self._adopting.below(device.body)
            made = self._adopting.prepared(device.key.id, body, type_, sender.name)
            # The sender ignores it until all of it is imported: an adopted entity is not listed again.
            begun = evolve(_imported(device, hub.limits), paused=_BEGUN)
            recorded = sender.states.putting(device.key, await sender.states.get(device.key), begun)
            await self._adopting.register(made, recorded, actor=actor, reason=reason)
        members = [
            await self._adopting.join(each, [device.key.id], actor=actor, reason=reason)
            for each in self._adopting.static(device.body.groups)
        ]
        twin = by_facet.get("twin")
        here = [device.key]
        if twin is not None and "twin" in sender.facets:
            here.append(twin.key)
            assert isinstance(twin.body, TwinBody)
            if (await sender.states.get(twin.key)).digest is None:
                await self._adopting.fill(device.key.id, twin.body, actor=actor, reason=reason)
                # Not earlier: the twin that is sent must be the hub's, not an empty one.
                await sender.amend(twin.key, lambda _: _imported(twin, hub.limits))
        await sender.amend(device.key, _whole)
        await sender.enqueue(here, Commit())
        return Counter({"devices": 1, "members": sum(members)})

    async def _take_group(
        self, hub: Hub, sender: StateSender, judged: Judged, group: MirrorItem, actor: str, reason: str
    ) -> Counter[str]:
        assert isinstance(group.body, GroupBody)
        if judged.action == "create":
            # Recorded first: a group that was created but not recorded would be a second one of that name.
            await sender.amend(group.key, lambda _: _imported(group, hub.limits))
            try:
                await self._adopting.group(group.key.id, group.body, actor=actor, reason=reason)
            except FleetError:
                await sender.amend(group.key, lambda _: EntityState())
                raise
        return Counter(groups=1)


def _whole(recorded: EntityState) -> EntityState:
    return evolve(recorded, paused=None) if recorded.paused == _BEGUN else recorded


def _by(operation: Operation, sender: StateSender) -> tuple[str, str]:
    """The actor and the reason."""
    return sender.actor, operation.reason or f"imported by {operation.actor}"


def _imported(item: MirrorItem, limits: CloudLimits) -> EntityState:
    """The record of an entity that was imported as it is at the hub."""
    body = item.body
    assert body is not None
    return EntityState(
        remote_version=item.remote_version,
        digest=digest(body),
        agreed=shared(body),
        body=to_plain(body) if item.key.facet in limits.remembers else None,
        adopts=True,
    )
