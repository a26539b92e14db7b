"""``mirror check``: tests each permission without a change, with a device that does not exist.

A "not found" answer shows that the permission exists: the hub checks permissions first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from fleetcore.interfaces.call_failed import CallFailed, clock_finding, clock_first, for_all
from fleetcore.interfaces.cloud import CloudUse
from fleetcore.interfaces.protocol import Finding
from fleetcore_azure.actions import ACTIONS, SOURCE, needed, rates
from fleetcore_azure.clients import Clients
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.held import OWN, Devices, select
from fleetcore_azure.links import MAX, Links, too_many
from fleetcore_azure.sdk import models

#: No device of a fleet has this name: names never begin with an escape sign that encodes nothing.
_NO_ONE = ":fleetcore-check"
_ETAG = '"AAAAAAAAAAA="'


class Checking:
    """See the module."""

    def __init__(self, clients: Clients, config: AzureConfig, devices: Devices, links: Links | None) -> None:
        self._clients, self._config, self._devices, self._links = clients, config, devices, links

    def _trials(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        call, name = self._clients.call, _NO_ONE
        nobody = models.Device(device_id=name, status="disabled")
        going = models.ExportImportDevice(id=name, import_mode="deleteIfMatchETag", e_tag=_ETAG.strip('"'))
        tag = models.Twin(tags={OWN: None})
        return {
            "devices/bulk": lambda: call("devices/bulk", lambda to: to.bulk_registry.update_registry([going])),
            "devices/read": lambda: call("devices/read", lambda to: to.devices.get_identity(name)),
            "devices/write": lambda: call(
                "devices/write", lambda to: to.devices.create_or_update_identity(name, nobody, if_match=_ETAG)
            ),
            "twins/read": lambda: call("twins/read", lambda to: to.devices.get_twin(name)),
            "twins/write": lambda: call("twins/write", lambda to: to.devices.update_twin(name, tag, if_match=_ETAG)),
            "twins/query": lambda: self._clients.page(select(self._devices.mine), None),
            "links/open": lambda: self._link(name),
            "messages/send": lambda: self._clients.for_device("messages/send", "POST", name, "events", body=b"{}"),
            "messages/receive": lambda: self._clients.for_device("messages/receive", "GET", name, "devicebound"),
        }

    async def check(self, use: CloudUse) -> Sequence[Finding]:
        """As in the interface."""
        wanted, trials = needed(use, self._config), self._trials()
        found = list(await asyncio.gather(*(self._try(action, trials[action]) for action in wanted)))
        if use.readings and "certificate" in use.sends:
            detail = "IoT Hub refuses readings of a device with certificates: only the device itself can send them"
            remedy = "Leave out certificates or metrics, or let devices send to the hub themselves"
            found.append(Finding(state="warning", what="certificates", detail=detail, remedy=remedy))
        found += [each async for each in self._about_links(use)]
        paced = ", ".join(f"{action} {rates(self._config)[action]:g}/s" for action in wanted)
        of = f"{self._config.units} x {self._config.tier}"
        detail = f"of {of}, changed by [clouds.NAME.rates]: {paced} ({SOURCE})"
        found.append(Finding(state="ok", what="quotas", detail=detail))
        return clock_first(found)

    async def _link(self, name: str) -> None:
        """Tests the endpoint alone: MQTT reports nothing for a missing device. Another test covers the permission."""
        assert self._links is not None
        await self._links.reach()
        await self._clients.for_device("links/open", "GET", name, "devicebound")

    async def _about_links(self, use: CloudUse) -> AsyncIterator[Finding]:
        if self._links is None or "twin" not in use.sends:
            return
        if left := self._links.left_alone:
            detail = f"{len(left)} devices are connected to IoT Hub themselves and ignored: {', '.join(left[:5])}"
            remedy = "Record it for each: fleetcore device set DEVICE --home NAME, with the mirror's name"
            yield Finding(state="warning", what="device_link", detail=detail, remedy=remedy)
        try:
            mine = self._devices.mine if "registry" in use.sends else self._devices.mine_by_twin
            count = await self._clients.count(mine)
        except CallFailed:
            return  # the test of queries reports that
        if count > MAX:
            error = too_many()
            detail = f"{error.code}: {error.message}: {count:,}"
            yield Finding(state="problem", what="device_link", detail=detail, remedy=error.remedy)

    async def _try(self, action: str, trial: Callable[[], Awaitable[object]]) -> Finding:
        try:
            await trial()
        except CallFailed as failed:
            if failed.kind == "credentials":
                return Finding(state="problem", what=action, detail=str(failed), remedy=for_all(failed).remedy)
            if failed.kind == "clock":
                return clock_finding(failed)
            if failed.kind == "throttled":
                remedy = "Lower its rate in [clouds.NAME.rates], add units to the hub, or wait for the next day"
                return Finding(state="warning", what=action, detail=str(failed), remedy=remedy)
            if failed.kind not in {"missing", "conflict", "exists"}:
                remedy = "Check whether the hub can be reached from here, under this name"
                return Finding(state="problem", what=action, detail=str(failed), remedy=remedy)
        return Finding(state="ok", what=action, detail=f"allowed: it {ACTIONS[action].why}")
