"""A device's part of a firmware campaign as a member of its desired properties: ``fleetcore.firmware.CAMPAIGN``.

A device connected to the hub reads there what to install, and users see its state. An automatic configuration per
campaign would work too, but a hub allows 100 of them, and 20 calls a minute.
"""

import json
from collections.abc import AsyncIterator
from typing import cast

from attrs import evolve

from fleetcore.interfaces.call_failed import CallFailed
from fleetcore.interfaces.cloud import Fitted, MirrorItem, MirrorResult
from fleetcore.model.mirror import EntityKey, JobBody, Loss
from fleetcore.model.patch import Document
from fleetcore.wire.records import from_plain, to_plain
from fleetcore_azure.documents import holdable, size
from fleetcore_azure.held import FOREIGN, OWN, TOO_LONG, TRIES, Devices, Held, section, with_own
from fleetcore_azure.names import KEY, digest

#: The maximum of one part in the desired properties.
_MAX_SIZE = 6 * 1024
_FIRMWARE = "firmware"


class Jobs:
    """See the module."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def fit(self, item: MirrorItem, body: JobBody) -> Fitted:
        """As in the interface."""
        if self._devices.name(body.device) is None:
            return Fitted(item=None, lost=(Loss("/device", TOO_LONG),))
        if _campaign(item.key) is None:
            return Fitted(item=None, lost=(Loss("/campaign", "The campaign's id is too long for a key of a twin"),))
        lost: list[Loss] = []
        kept = holdable(_plain(body), "", lost)
        if (lost or size(kept) > _MAX_SIZE) and body.reason is not None:
            body = evolve(body, reason=None)
            lost = [Loss("/reason", f"A part of a campaign may have {_MAX_SIZE} bytes, and a text 4 kB")]
        bad: list[Loss] = []
        if size(holdable(_plain(body), "", bad)) > _MAX_SIZE or bad:
            return Fitted(item=None, lost=(Loss("/url", f"A part of a campaign may have at most {_MAX_SIZE} bytes"),))
        return Fitted(item=evolve(item, body=body) if lost else item, lost=lost)

    async def apply(self, item: MirrorItem, body: JobBody | None) -> MirrorResult:
        """As in the interface, for one item; raises HubFailed."""
        campaign, name = _campaign(item.key), self._devices.name(item.key.device or "")
        if campaign is None or name is None:
            return MirrorResult(state="done" if body is None else "invalid", reason=TOO_LONG)
        for last in range(TRIES):
            held = await self._devices.get(name)
            if held is None:
                gone = MirrorResult(state="failed", reason=f"There is no device {item.key.device} yet")
                return MirrorResult(state="done") if body is None else gone
            if not self._devices.owns(held):
                return MirrorResult(state="foreign", reason=FOREIGN)
            there = _parts(held).get(campaign)
            wanted = None if body is None else _plain(body)
            if there == wanted:
                return MirrorResult(state="done", remote_version=_version(wanted))
            if item.remote_version != _version(there):
                return MirrorResult(state="conflict")
            try:
                await self._devices.write(held, held.tags, _with(held, campaign, wanted))
            except CallFailed as failed:
                if failed.kind != "conflict" or last == TRIES - 1:
                    raise
                continue  # another facet of the device, or another writer: it is read again
            return MirrorResult(state="done", remote_version=_version(wanted))
        raise AssertionError("the last try raises")

    async def read(self, key: EntityKey) -> MirrorItem | None:
        """As in the interface, for one key; raises HubFailed."""
        campaign, name = _campaign(key), self._devices.name(key.device or "")
        held = None if name is None else await self._devices.get(name)
        if held is None or campaign is None or not self._devices.owns(held):
            return None
        there = _parts(held).get(campaign)
        if not isinstance(there, dict):
            return None
        body = from_plain("job", {"state": "", "release": "", "url": "", **_of(key), **there}, JobBody)
        return MirrorItem(key=key, body=body, remote_version=_version(there))

    async def entities(self) -> AsyncIterator[EntityKey]:
        """As in the interface; raises HubFailed."""
        async for held in self._devices.ours(f"is_defined(properties.desired.{OWN}.{_FIRMWARE})"):
            device = self._devices.device(held.name)
            for name in _parts(held):
                campaign = KEY.decode(name)
                if device is not None and campaign is not None:
                    yield EntityKey("job", f"{campaign}:{device}")


def _campaign(key: EntityKey) -> str | None:
    return KEY.encode(key.id.partition(":")[0])


def _of(key: EntityKey) -> dict[str, object]:
    campaign, _, device = key.id.partition(":")
    return {"campaign": campaign, "device": device}


def _plain(body: JobBody) -> dict[str, object]:
    return {name: value for name, value in to_plain(body).items() if value is not None}


def _parts(held: Held) -> Document:
    return section(section(held.desired, OWN), _FIRMWARE)


def _with(held: Held, campaign: str, wanted: Document | None) -> Document:
    """The desired properties with a part, or without it; no empty object remains."""
    parts: dict[str, object] = {name: part for name, part in _parts(held).items() if name != campaign}
    if wanted is not None:
        parts[campaign] = dict(wanted)
    own = {name: value for name, value in section(held.desired, OWN).items() if name != _FIRMWARE}
    return with_own(held.desired, {**own, _FIRMWARE: parts} if parts else own)


def _version(part: object) -> str | None:
    return None if part is None else digest(json.dumps(cast("Document", part), sort_keys=True))
