"""Twins: desired properties in both directions, and reported state in tags or in the reported properties.

The hub's REST API cannot write reported properties: only a connection of the device can. So the fleet's knowledge of
them is in ``tags.fleetcore.twin``, where users of the hub can read and query it. The mark beside it names the twin's
fleet. If a device is connected to the hub and reports there, its own report counts.

With links (links.py) the fleet writes the reported properties themselves, and only they count. Then the tag says that
they are the fleet's: without links again, they do not count as the device's own report.

A state's version is its digest with the twin's ETag and, with links, the version of the reported properties. The digest
recognises a changed state, because every facet of the device changes the ETag; with the rest a remembered state is
written without a read before.
"""

import json
from collections.abc import AsyncIterator

from attrs import evolve, frozen

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import CloudUse, Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, Loss, TwinBody
from fleetcore.model.patch import Document, patch, pointed, same
from fleetcore_azure.documents import MAX_DEPTH, PROPERTIES_BYTES, holdable, size
from fleetcore_azure.held import FOREIGN, OWN, TOO_LONG, TRIES, Devices, Held, section, with_own
from fleetcore_azure.links import LINK, MQTT, Links
from fleetcore_azure.names import digest

#: Of the 8 kB of tags: the other half is for the registration (attributes.py), some for the names around it.
REPORTED_BYTES = 3584
#: Of the 32 kB of desired properties: the rest is for firmware and commands.
DESIRED_BYTES = PROPERTIES_BYTES - 8 * 1024
#: Objects around the reported state, within the tags: fleetcore, twin, reported.
_AROUND = 3
_TWIN = "twin"
_REPORTED_MEANWHILE = "Another writer has changed the reported state"


@frozen(kw_only=True)
class _There:
    """The twin at the hub.

    Attributes:
        known: the reported state, as the fleet writes it: without links, a connected device reports there itself.
        marked: whether this fleet wrote it.
        linked: whether the fleet writes the reported properties.
        reports: whether the device itself reports there.
    """

    body: TwinBody
    known: Document
    marked: bool
    linked: bool
    reports: bool
    owner: str | None

    @property
    def digest(self) -> str:
        digest = _digest(self.body.desired, self.known)
        return digest if self.marked else "-" + digest


class Twins:
    """See the module."""

    def __init__(self, devices: Devices, links: Links | None) -> None:
        self._devices, self._links = devices, links
        self.use = CloudUse()

    # -- pure -------------------------------------------------------------------------------------------------------

    def fit(self, item: MirrorItem, body: TwinBody) -> Fitted:
        """As in the interface."""
        if self._devices.name(item.key.id) is None:
            return Fitted(item=None, lost=(Loss("", TOO_LONG),))
        lost: list[Loss] = []
        desired = holdable(body.desired, "/desired", lost)
        if OWN in desired:
            del desired[OWN]
            lost.append(Loss(f"/desired/{OWN}", "Firmware and commands use this name"))
        if size(desired) > DESIRED_BYTES:
            return Fitted(item=None, lost=(Loss("", f"Desired properties may have {DESIRED_BYTES} bytes here"),))
        if self._links is None:
            deepest, most = MAX_DEPTH - _AROUND, REPORTED_BYTES
            why = f"Reported properties are stored in tags, where they may have {REPORTED_BYTES} bytes"
        else:
            deepest, most = MAX_DEPTH, PROPERTIES_BYTES
            why = f"Reported properties may have {PROPERTIES_BYTES} bytes"
        reported = holdable(body.reported, "/reported", lost, deepest=deepest)
        while size(reported) > most:
            largest = max(reported, key=lambda name: (len(name) + size(reported[name]), name))
            del reported[largest]
            lost.append(Loss(f"/reported/{pointed(largest)}", why))
        if not lost:
            return Fitted(item=item)
        return Fitted(item=evolve(item, body=TwinBody(desired=desired, reported=reported)), lost=lost)

    def _tags(self, held: Held, reported: Document | None, *, linked: bool) -> dict[str, object]:
        """The tags with a twin of this fleet, or without one if ``reported`` is None.

        ``linked``: whether the fleet writes the reported properties from now on.
        """
        own = {key: value for key, value in held.own.items() if key != _TWIN}
        if reported is not None:
            tag: dict[str, object] = {"fleet": self._devices.mark}
            if self._links is None:
                tag["reported"] = dict(reported)
            own[_TWIN] = {**tag, LINK: MQTT} if linked else tag
        return with_own(held.tags, own)

    @staticmethod
    def _desired(there: Document, desired: Document) -> dict[str, object]:
        return with_own(desired, section(there, OWN))

    def _there(self, held: Held) -> _There:
        tag = section(held.own, _TWIN)
        owner = tag.get("fleet")
        desired = {key: value for key, value in held.desired.items() if key != OWN}
        in_tags, linked = section(tag, "reported"), is_linked(held)
        if self._links is not None:
            reported = known = held.reported
        else:
            reported, known = (in_tags if linked else held.reported or in_tags), in_tags
        return _There(
            body=TwinBody(desired=desired, reported=reported),
            known=known,
            marked=owner == self._devices.mark,
            linked=linked,
            reports=bool(held.reported) and not linked,
            owner=owner if isinstance(owner, str) else None,
        )

    # -- calls ------------------------------------------------------------------------------------------------------

    async def apply(self, item: MirrorItem, body: TwinBody | None) -> MirrorResult:
        """As in the interface, for one item; raises HubFailed."""
        name = self._devices.name(item.key.id)
        if name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason=TOO_LONG)
        if body is not None and (done := await self._from_last(name, item, body)) is not None:
            return done
        for last in range(TRIES):
            held = await self._devices.to_write(name, adopts=item.adopts)
            if held is None:
                gone = MirrorResult(state="failed", reason="There is no device of that name yet")
                return MirrorResult(state="done") if body is None else gone
            there = self._there(held)
            # An imported one may be adopted before its device is.
            unowned = item.adopts and held.owner is None and there.owner is None
            if not unowned and (refused := self._refused(held, there)) is not None:
                return refused
            if body is None and not there.marked:
                return MirrorResult(state="done")
            if body is not None and there.marked and same_body(there.body, body):
                return MirrorResult(state="done", remote_version=_version(there.digest, held))
            adopts = item.adopts and not there.marked
            at_version = _is_at(item.remote_version, there.digest if adopts else self._known(held, there))
            if not at_version and not adopts:
                return MirrorResult(state="conflict")
            wanted = TwinBody() if body is None else body
            changes = self._changes(held, there, body) if at_version else {}
            if changes and (reason := await self._refused_to_report(held, there)) is not None:
                return MirrorResult(state="invalid", reason=reason)
            linked = there.linked or bool(changes)
            reported = {} if there.reports else wanted.reported
            try:
                if not at_version:
                    await self._devices.write(held, self._tags(held, {}, linked=linked), held.desired)
                    return MirrorResult(state="conflict", reason="It has changed since its import")
                tags = self._tags(held, None if body is None else reported, linked=linked)
                written = await self._devices.write(held, tags, self._desired(held.desired, wanted.desired))
                if changes:
                    version = await self._reported(name, changes, held.reported_version, connected=held.connected)
                    if version is None:
                        return MirrorResult(state="conflict", reason=_REPORTED_MEANWHILE)
                    written = evolve(written, reported_version=version)
            except CallFailed as failed:
                if failed.kind != "conflict" or last == TRIES - 1:
                    raise
                continue  # another facet of the device, or another writer: it is read again
            if body is None:
                if self._links is not None:
                    await self._links.gone(name, linked=there.linked)
                return MirrorResult(state="done")
            known = wanted.reported if self._links is not None else reported
            return MirrorResult(state="done", remote_version=_version(_digest(wanted.desired, known), written))
        raise AssertionError("the last try raises")

    def _changes(self, held: Held, there: _There, body: TwinBody | None) -> Document:
        """The changes for a link to write; what the device itself has reported stays when the twin is removed."""
        if self._links is None or (body is None and not there.linked):
            return {}
        return patch(held.reported, {} if body is None else body.reported)

    async def _refused_to_report(self, held: Held, there: _There) -> str | None:
        assert self._links is not None
        return await self._links.refused(held, linked=there.linked)

    async def _reported(self, name: str, changes: Document, before: int, *, connected: bool = False) -> int | None:
        """The version of the reported properties after our write; None if another writer has reported in between."""
        assert self._links is not None
        version = await self._links.write(name, changes, connected=connected)
        return version if version == before + 1 else None

    async def _from_last(self, name: str, item: MirrorItem, body: TwinBody) -> MirrorResult | None:
        """Overwrites the remembered state: one call. None if the twin has another ETag by now.

        This works for a link's reports while the link is open: otherwise the twin must say whether the device is
        connected itself.
        """
        version, last = item.remote_version, item.last
        if (
            version is None
            or not isinstance(last, TwinBody)
            or not version.startswith(_digest(last.desired, last.reported))
        ):
            return None
        _, etag, *number = version.split(":")
        reported, desired = patch(last.reported, body.reported), patch(last.desired, body.desired)
        by_link = reported if self._links is not None else {}
        tags = {OWN: {_TWIN: {"reported": reported}}} if reported and not by_link else {}
        if (by_link and not (number and self._links is not None and self._links.has(name))) or not (
            reported or desired
        ):
            return None
        after = ":".join((_digest(body.desired, body.reported), etag, *number))
        if tags or desired:
            try:
                written = await self._devices.patch(name, etag, tags, desired)
            except CallFailed as failed:
                if failed.kind in {"conflict", "missing"}:
                    return None
                raise
            after = _version(_digest(body.desired, body.reported), written)
        if by_link:
            reached = await self._reported(name, by_link, int(number[0]))
            if reached is None:
                return MirrorResult(state="conflict", reason=_REPORTED_MEANWHILE)
            after = ":".join((*after.split(":")[:2], str(reached)))
        return MirrorResult(state="done", remote_version=after)

    def _refused(self, held: Held, there: _There) -> MirrorResult | None:
        if "registry" in self.use.sends and not self._devices.owns(held):
            return MirrorResult(state="foreign", reason=FOREIGN)
        if there.owner is not None and not there.marked:
            return MirrorResult(state="foreign", reason=f"The twin belongs to the fleet {there.owner!r}")
        return None

    def _known(self, held: Held, there: _There) -> str | None:
        """The digest that identifies the twin; None if it was not written yet.

        A desired state that users of the hub set for our device before its twin was first written is read.
        """
        if there.marked or (there.body.desired and self._devices.owns(held)):
            return there.digest
        return None

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises HubFailed."""
        name = self._devices.name(key.id)
        held = None if name is None else await self._devices.get(name)
        if held is None:
            return None
        there = self._there(held)
        known = self._known(held, there)
        if known is None or self._refused(held, there) is not None:
            return None
        return MirrorItem(key=key, body=there.body, remote_version=_version(known, held))

    def unowned(self, key: EntityKey, held: Held) -> MirrorItem:
        """The twin of a device that may be imported."""
        there = self._there(held)
        return MirrorItem(key=key, body=there.body, remote_version=_version(there.digest, held))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises HubFailed."""
        async for held in self._devices.with_twins():
            device = self._devices.device(held.name)
            if device is not None and self._there(held).marked:
                yield EntityKey("twin", device)


def same_body(twin_body: TwinBody, other: TwinBody) -> bool:
    """Whether two twins are equal."""
    return same([twin_body.desired, twin_body.reported], [other.desired, other.reported])


def _digest(desired: Document, reported: Document) -> str:
    return digest(json.dumps([desired, reported], sort_keys=True))


def is_linked(held: Held) -> bool:
    """Whether a link wrote the reported properties of a device."""
    return section(held.own, _TWIN).get(LINK) == MQTT


def _version(known: str, held: Held) -> str:
    return ":".join((known, held.etag, *([str(held.reported_version)] if is_linked(held) else [])))


def _is_at(version: str | None, known: str | None) -> bool:
    return (None if version is None else version.partition(":")[0]) == known
