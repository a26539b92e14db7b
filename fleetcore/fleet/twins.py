"""Twins: a device's desired and reported state; merge patches, a version per section, compare-and-set."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import cast

from attrs import evolve
from msgspec import to_builtins

from fleetcore.errors import NotFound, Refused, VersionConflict
from fleetcore.fleet.layers import Layers, authors, check_not_ours
from fleetcore.fleet.process_state.last_written import LastWritten
from fleetcore.fleet.repository import Repository
from fleetcore.fleet.sections import check_document, check_size
from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.provider import Limits
from fleetcore.interfaces.storage import Storage
from fleetcore.model.edge import FUNCTIONS
from fleetcore.model.message import (
    Accepted,
    Downlink,
    Handler,
    MessageType,
    Outcome,
    Rejected,
    Reply,
    Request,
    Waiting,
)
from fleetcore.model.store import Commit, Delete, Event
from fleetcore.model.twin import OURS, Json, Past, Section, Twin, delta, diff_patch, equal, leaves, merge_patch
from fleetcore.wire import messages
from fleetcore.wire.replies import rejection
from fleetcore.wire.strict_json import dumps
from fleetcore.wire.times import format_time

#: How many changes of a section are stored, per device.
HISTORY = 100

#: The limit for cached twins, by use; a leaf's objects take some ten times its JSON (tracemalloc).
_REMEMBERED_BYTES = 32 * 1024 * 1024
_TWIN_BYTES, _TIMES_JSON = 3000, 10

#: The newest desired version of an erased device, by its id.
DESIRED_FLOOR = "twin-desired"

#: Called with a desired change: device, and the wire's notification.
Changed = Callable[[str, Mapping[str, object]], None]
#: Awaited with a report once it is stored: device, and merge patch.
ReportedBy = Callable[[str, Json], Awaitable[None]]


class Twins:
    """Reads and changes twins. Devices write only ``reported``; the callers check the rights."""

    def __init__(self, storage: Storage, clock: Clock, limits: Limits) -> None:
        self._storage, self._clock, self._limits = storage, clock, limits
        self._last_written = LastWritten(_size, _REMEMBERED_BYTES)
        self._records = Repository(storage, "twin", Twin, key="device", last_written=self._last_written)
        self._past = Repository(storage, "twin_past", Past)
        self.layers = Layers(storage, clock, self._patched)
        self._listeners: list[Changed] = []
        self._report_listeners: list[ReportedBy] = []
        self._has_functions: Callable[[str], Awaitable[bool]] = _no_gateway

    def protect_functions(self, is_gateway: Callable[[str], Awaitable[bool]]) -> None:
        """Sets what tells gateways, whose functions only :meth:`desire_by` changes."""
        self._has_functions = is_gateway

    @property
    def handlers(self) -> Mapping[MessageType, Handler]:
        """The handlers for devices' messages about their twins."""
        return {
            messages.TWIN_REPORT: lambda request, patch: self.report(
                request.subject, patch, if_version=request.if_version
            ),
            messages.TWIN_ACK: lambda request, body: self.acknowledge(request.subject, body),
            messages.TWIN_GET: self._tell,
        }

    @property
    def waiting(self) -> Mapping[MessageType, Waiting]:
        """What is pending for a device."""
        return {
            messages.TWIN_DESIRED: Waiting(read=self._newer, count=self._newest, unfinished=self._unfinished),
        }

    async def _tell(self, request: Request, _body: object) -> Reply:
        twin = await self.get(request.subject)
        return Reply(body=twin_view(twin, self._clock.now_ms()), etag=twin_etag(twin), version=twin.reported.version)

    async def _newer(self, device: str, after: int) -> Mapping[str, object] | None:
        twin = await self.get(device)
        return desired_change(twin) if twin.desired.version > after else None

    async def _newest(self, device: str) -> int:
        return (await self.get(device)).desired.version

    async def _unfinished(self, device: str) -> Sequence[Downlink]:
        change = await self._newer(device, 0)
        return [] if change is None else [Downlink(type=messages.TWIN_DESIRED, subject=device, body=change)]

    def on_desired(self, callback: Changed) -> None:
        """Calls ``callback(device, notification)`` after each committed change of a desired section."""
        self._listeners.append(callback)

    def on_reported(self, callback: ReportedBy) -> None:
        """Awaits ``callback(device, patch)`` after each committed report of a device, before it is answered."""
        self._report_listeners.append(callback)

    def forget(self, device: str) -> None:
        """Drops the twin of a device that was erased."""
        self._last_written.forget(device)

    async def get(self, device: str) -> Twin:
        """The twin; an empty one where nothing was written yet.

        A device that is registered again under its id may still have desired state from before it was erased: the new
        versions continue above the old ones, so that it accepts the new state.
        """
        found = await self._records.get(device)
        return await self._empty(device) if found is None else found

    async def get_many(self, devices: Sequence[str]) -> Mapping[str, Twin]:
        """The twins of some devices, each as by :meth:`get`."""
        found = await self._records.get_many(devices)
        return {each: found[each] if each in found else await self._empty(each) for each in devices}

    async def _empty(self, device: str) -> Twin:
        floor = await self._storage.floor(DESIRED_FLOOR, device)
        return Twin(device=device, desired=Section(version=floor + 1)) if floor else Twin(device=device)

    async def removing(self, device: str) -> Commit:
        """The commit that erases the twin and keeps its version; VersionConflict if the twin changes first."""
        found = await self._records.get(device)
        if found is None:
            return Commit()
        return Commit(
            deletes=(Delete(kind="twin", key=device, expect=found.version),),
            floors={(DESIRED_FLOOR, device): found.desired.version},
        )

    def iterate(self) -> AsyncIterator[Twin]:
        """Every twin that was written to; one that changes meanwhile may appear in either state."""
        return self._records.iterate()

    def _patched(self, section: Section, patch: Json, now: int) -> Section:
        check_document(patch, self._limits)
        document = cast("Json", merge_patch(section.document, patch))
        check_size(document, self._limits)
        before, after = leaves(section.document), leaves(document)
        same = {at for at, value in after.items() if at in before and equal(before[at], value)}
        times = {at: section.times.get(at, now) if at in same else now for at in after}
        return Section(document=document, version=section.version + 1, times=times)

    async def desire(
        self,
        device: str,
        patch: Json,
        *,
        if_version: int | None = None,
        replace: bool = False,
        ours: bool = False,
        actor: str = "system",
        reason: str = "",
    ) -> Twin:
        """Merges ``patch`` into the desired section (or replaces that); without a change there is no new version.

        Only the fleet itself writes the key ``fleetcore``, such as the CAs to trust: with ``ours``. A gateway's key
        ``functions`` changes with deployments only.

        Raises:
            VersionConflict: the section is not at ``if_version``; ``ids['version']`` is its version.
            Refused: ``limit_exceeded`` or ``schema_invalid``.
        """
        if not ours:
            check_not_ours(patch)
        kept = () if ours else (OURS,)
        if (FUNCTIONS in patch or replace) and await self._has_functions(device):
            kept = (*kept, FUNCTIONS)
            if FUNCTIONS in patch:
                raise Refused(
                    f"The functions of the gateway {device!r} are deployed, not set",
                    remedy="Use fleetcore edge deploy, or fleetcore edge undeploy",
                    pointer=f"/{FUNCTIONS}",
                )

        def making(old: Twin) -> Json:
            _expect(old.desired, if_version)
            before = {key: old.own.document[key] for key in kept if key in old.own.document}
            return diff_patch(old.own.document, {**patch, **before}) if replace else patch

        return await self.desire_by(device, making, actor=actor, reason=reason)

    async def desire_by(
        self,
        device: str,
        making: Callable[[Twin], Json | None],
        *,
        extra: Callable[[Twin, Twin], Commit] | None = None,
        actor: str = "system",
        reason: str = "",
    ) -> Twin:
        """As :meth:`desire`, also of the fleet's own keys, with a patch that follows from the twin.

        Args:
            making: makes the patch, None for no change; it may run more than once, and raise.
            extra: the rest of the same commit, from the twin before and after.
        """

        def step(old: Twin) -> tuple[Twin, list[Event]] | None:
            patch = making(old)
            return None if patch is None else self._merged(old, patch, actor, reason)

        return await self._settle(device, step, extra)

    def _merged(self, old: Twin, patch: Json, actor: str, reason: str) -> tuple[Twin, list[Event]] | None:
        """A twin with a patch of its own layer, and the event; None where nothing changes."""
        own = self._patched(old.own, patch, self._clock.now_ms())
        if equal(own.document, old.own.document) and old.desired.version:
            return None
        return self._desired(evolve(old, own=own, by=authors(old.by, old.own, own, actor)), old, actor, reason, patch)

    async def desiring(self, device: str, patch: Json, *, actor: str, reason: str) -> tuple[Commit, Callable[[], None]]:
        """The part of a larger commit that merges a patch as :meth:`desire_by`; and what to call once it is stored.

        The commit raises VersionConflict where the twin changes meanwhile.
        """
        old = await self.get(device)
        merged = self._merged(old, patch, actor, reason)
        if merged is None:
            return Commit(), lambda: None
        new, events = merged
        commit = self._records.changing(old, new) + self._kept("desired", old, new, actor, reason)

        def stored() -> None:
            self._last_written.forget(device)
            if new.desired.version != old.desired.version:
                notification = desired_change(new, since=old)
                for callback in self._listeners:
                    callback(device, notification)

        return commit + Commit(events=tuple(events)), stored

    async def recompute(self, device: str) -> Twin:
        """Updates a device's desired state from its layers; without a difference there is no new version."""
        actor, reason = "layers", "a layer or a membership changed"

        def step(old: Twin) -> tuple[Twin, list[Event]] | None:
            document, _ = self.layers.effective(device, old.own)
            if equal(document, old.desired.document):
                return None
            return self._desired(old, old, actor, reason, diff_patch(old.desired.document, document))

        try:
            return await self._settle(device, step)
        except Refused as error:
            event = Event(
                type="twin.refused", subject=device, time=self._clock.now_ms(), actor=actor, reason=error.message
            )
            await self._storage.commit(Commit(events=(event,)))
            return await self.get(device)

    def _desired(self, new: Twin, old: Twin, actor: str, reason: str, patch: Json) -> tuple[Twin, list[Event]]:
        """The twin with its layers merged, and the event of the change."""
        document, times = self.layers.effective(new.device, new.own)
        check_size(document, self._limits)
        changed = not old.desired.version or not equal(document, old.desired.document)
        version = old.desired.version + changed
        event = Event(
            type="twin.desired",
            subject=new.device,
            time=self._clock.now_ms(),
            actor=actor,
            reason=reason,
            data={"version": version, "patch": patch},
        )
        desired = Section(document=document, version=version, times=times)
        return evolve(new, desired=desired, version=old.version + 1), [event]

    async def _settle(
        self,
        device: str,
        step: Callable[[Twin], tuple[Twin, list[Event]] | None],
        extra: Callable[[Twin, Twin], Commit] | None = None,
    ) -> Twin:
        before: Twin | None = None
        actor = reason = ""

        def remembering(old: Twin) -> tuple[Twin, list[Event]] | None:
            nonlocal before, actor, reason
            before = old
            result = step(old)
            if result is not None:
                actor, reason = result[1][0].actor, result[1][0].reason
            return result

        twin = await self._records.compare_and_set(
            lambda: self.get(device),
            remembering,
            lambda old, new: (
                self._kept("desired", old, new, actor, reason) + (Commit() if extra is None else extra(old, new))
            ),
            key=device,
        )
        assert before is not None
        if twin.desired.version != before.desired.version:
            notification = desired_change(twin, since=before)
            for callback in self._listeners:
                callback(device, notification)
        return twin

    def _kept(self, name: str, old: Twin, new: Twin, actor: str, reason: str) -> Commit:
        """How to undo the change, for :meth:`as_of`; the oldest beyond the limit is dropped."""
        before, after = getattr(old, name), getattr(new, name)
        if before.version == after.version:
            return Commit()
        past = Past(
            id=_past_key(new.device, name, after.version),
            undo=diff_patch(after.document, before.document),
            time=self._clock.now_ms(),
            by=actor,
            reason=reason,
        )
        gone = after.version - HISTORY
        deletes = (Delete(kind="twin_past", key=_past_key(new.device, name, gone)),) if gone >= 1 else ()
        return Commit(puts=(self._past.put(past),), deletes=deletes)

    async def history(self, device: str, section: str = "desired") -> list[Past]:
        """The stored changes of a section, the newest first; the last number of an id is its version."""
        _check_section(section)
        twin = await self.get(device)
        newest = getattr(twin, section).version
        found = [
            await self._past.get(_past_key(device, section, version))
            for version in range(newest, max(0, newest - HISTORY), -1)
        ]
        return [item for item in found if item is not None]

    async def as_of(self, device: str, time: int, section: str = "desired") -> Json:
        """The section as it was at a time (ms since the epoch).

        Raises NotFound where the stored history does not reach back that far.
        """
        twin = await self.get(device)
        document: Json = getattr(twin, section).document
        newest = getattr(twin, section).version
        changes = await self.history(device, section)
        for past in changes:
            if past.time <= time:
                return document
            document = cast("Json", merge_patch(document, past.undo))
        if newest > len(changes):
            raise NotFound(
                f"The {section} section of {device!r} at that time is no longer stored",
                remedy=f"The last {HISTORY} versions are stored",
                device=device,
            )
        return document

    async def report(
        self, device: str, patch: Json, *, if_version: int | None = None, actor: str | None = None
    ) -> Outcome:
        """Merges a device's report (RFC 7396); mistakes of the device are outcomes, not exceptions.

        Args:
            actor: the actor of the report; None for the device itself.
        """
        now = self._clock.now_ms()

        def step(old: Twin) -> tuple[Twin, list[Event]]:
            _expect(old.reported, if_version)
            section = self._patched(old.reported, patch, now)
            event = Event(
                type="twin.reported", subject=device, time=now, actor=actor or device, data={"version": section.version}
            )
            return evolve(old, reported=section, version=old.version + 1), [event]

        try:
            twin = await self._records.compare_and_set(
                lambda: self.get(device),
                step,
                lambda old, new: self._kept("reported", old, new, device, ""),
                key=device,
            )
        except (VersionConflict, Refused) as error:
            return rejection(error)
        for callback in self._report_listeners:
            await callback(device, patch)
        return Accepted(version=twin.reported.version, etag=twin_etag(twin))

    async def take_report(self, device: str, reported: Json, *, actor: str) -> None:
        """Sets the reported section to the device's report at a hub; raises Refused where it does not fit."""
        patch = diff_patch((await self.get(device)).reported.document, reported)
        outcome = await self.report(device, patch, actor=actor) if patch else None
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason, code=outcome.code)

    async def acknowledge(self, device: str, body: messages.TwinAck) -> Outcome:
        """``twin/ack``: the desired version that the device accepted, and the leaves that it refuses, with reasons."""
        version, refused = body.version, to_builtins(body.refused or {})
        try:
            _check_size(refused, self._limits)
        except Refused as error:
            return rejection(error)
        now = self._clock.now_ms()
        unknown: list[Rejected] = []

        def step(old: Twin) -> tuple[Twin, list[Event]] | None:
            unknown.clear()
            if version > old.desired.version:
                # If it were accepted, it would outlast every correct acknowledgement to come.
                reason = f"version must be at most {old.desired.version}, the newest desired one"
                unknown.append(
                    Rejected(
                        code="schema_invalid",
                        reason=reason,
                        pointer="/version",
                        limit=old.desired.version,
                        unit="version",
                        scope="device",
                    )
                )
                return None
            # An earlier release accepted any version; one that never existed is ignored.
            if version < min(old.acknowledged, old.desired.version):
                return None
            event = Event(
                type="twin.acknowledged",
                subject=device,
                time=now,
                actor=device,
                data={"version": version, "refused": refused},
            )
            return evolve(old, acknowledged=version, refused=refused), [event]

        twin = await self._records.compare_and_set(lambda: self.get(device), step, key=device)
        return unknown[0] if unknown else Accepted(version=twin.reported.version)


async def _no_gateway(_device: str) -> bool:
    return False


def _check_size(refused: Mapping[str, object], limits: Limits) -> None:
    """Checks that pointers and reasons (wire.md §8) stay within the limits of a section; raises Refused."""
    for length, limit, unit in (
        (len(refused), limits.twin_keys, "keys"),
        (len(dumps(refused)), limits.twin_bytes, "bytes"),
    ):
        if length > limit:
            raise Refused(
                f"refused has more than {limit} {unit}",
                code="limit_exceeded",
                pointer="/refused",
                limit=limit,
                unit=unit,
                scope="message",
            )


def _size(twin: Twin) -> int:
    documents = (twin.own.document, twin.desired.document, twin.reported.document)
    return _TWIN_BYTES + _TIMES_JSON * sum(len(dumps(document)) for document in documents)


def _past_key(device: str, section: str, version: int) -> str:
    return f"{device}/{section}/{version:010d}"


def _check_section(section: str) -> None:
    if section not in ("desired", "reported"):
        raise Refused(f"{section!r} is not a section with a history", remedy="Use desired or reported")


def _expect(section: Section, if_version: int | None) -> None:
    if if_version is not None and section.version != if_version:
        raise VersionConflict(
            f"The section is at version {section.version}, not {if_version}",
            remedy="Read it again and repeat the change",
            version=section.version,
        )


def desired_change(twin: Twin, since: Twin | None = None) -> dict[str, object]:
    """The wire's notification (wire.md §8): from an earlier state, or the whole section with ``since: 0``."""
    desired = twin.desired
    newest = max(desired.times.values(), default=0)
    body: dict[str, object] = {
        "version": desired.version,
        "since": since.desired.version if since else 0,
        "patch": diff_patch(since.desired.document, desired.document) if since else dict(desired.document),
    }
    return body | ({"time": format_time(newest)} if newest else {})


def twin_view(twin: Twin, now_ms: int) -> dict[str, object]:
    """The answer of ``GET /twin`` (wire.md §8)."""
    return {
        "desired": dict(twin.desired.document),
        "desired_version": twin.desired.version,
        "reported": dict(twin.reported.document),
        "reported_version": twin.reported.version,
        "delta": delta(twin.desired.document, twin.reported.document),
        "time": format_time(now_ms),
    }


def twin_etag(twin: Twin) -> str:
    """An entity tag with both sections' versions."""
    return f"d{twin.desired.version}.r{twin.reported.version}"
