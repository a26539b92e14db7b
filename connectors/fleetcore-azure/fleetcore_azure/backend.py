"""The backend: registrations in bulk, then one facet's module for each item, and the failures of the batch."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from fleetcore.interfaces.call_failed import CallFailed, as_results
from fleetcore.interfaces.cloud import (
    Arrived,
    CloudLimits,
    CloudUse,
    MirrorItem,
    MirrorResult,
    Sent,
)
from fleetcore.interfaces.facet_backend import FacetBackend
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import (
    Facet,
    RegistryBody,
)
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore_azure.actions import rates
from fleetcore_azure.certificates import Certificates
from fleetcore_azure.checking import Checking
from fleetcore_azure.clients import Clients
from fleetcore_azure.config import AzureConfig
from fleetcore_azure.held import Devices, Held
from fleetcore_azure.identities import Identities
from fleetcore_azure.importing import Imports
from fleetcore_azure.inbound import Inbound
from fleetcore_azure.jobs import Jobs
from fleetcore_azure.links import Links
from fleetcore_azure.policy import policy
from fleetcore_azure.readings import Readings
from fleetcore_azure.registry import Registry
from fleetcore_azure.twins import Twins, is_linked

#: The hub has no groups: a device's groups are in its tags. An automatic configuration per group would hold its
#: description, but a hub allows 100 of them, and they write to devices. A device has one authentication: for one with
#: certificates, a link cannot report.
FACETS: frozenset[Facet] = frozenset({"registry", "certificate", "twin", "job"})

_Done = MirrorResult | BaseException


class AzureCloud(FacetBackend):
    """Azure IoT Hub for one fleet; ``devices`` recognises its entities by the fleet's mark."""

    def __init__(
        self, config: AzureConfig, fleet: str, clients: Clients, devices: Devices, links: Links | None
    ) -> None:
        self._config, self._fleet, self._clients, self._links = config, fleet, clients, links
        # With links the reported state has another place: everything is compared again.
        linked = () if config.device_link is None else (config.device_link,)
        self.identity = "/".join((clients.host, config.endpoint or "-", config.device_prefix or "-", *linked))
        self.limits = CloudLimits(
            items=100,
            parallel=4,
            rates=rates(config),
            facets=FACETS if links is None else FACETS - {"certificate"},
            commands=config.commands_by is not None,
            readings_after_device=True,
            imports=True,
            remembers=frozenset({"twin"}),
        )
        identities = Identities(clients)
        self._registry = Registry(clients, devices, identities)
        self._certificates = Certificates(devices, identities)
        self._twins = Twins(devices, links)
        self._jobs = Jobs(devices)
        self.unowned_part = Imports(clients, devices, self._twins, config.device_prefix)
        self.facets = {
            "registry": self._registry,
            "certificate": self._certificates,
            "twin": self._twins,
            "job": self._jobs,
        }
        self._readings = Readings(clients, devices, fleet)
        self._inbound = Inbound(clients, devices, config)
        self._checking = Checking(clients, config, devices, links)

    @property
    def pace(self) -> Pace:
        """The rate limits of the classes of calls."""
        return self._clients.pace

    @pace.setter
    def pace(self, pace: Pace) -> None:
        self._clients.pace = pace

    @property
    def use(self) -> CloudUse:
        """What the mirror does with the hub."""
        return self._registry.use

    @use.setter
    def use(self, use: CloudUse) -> None:
        self._registry.use = self._twins.use = use

    # -- states -----------------------------------------------------------------------------------------------------

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        results: dict[int, _Done] = {}
        registrations = [at for at, item in enumerate(items) if item.key.facet == "registry"]
        if registrations:
            results |= zip(registrations, await self._registered([items[at] for at in registrations]), strict=True)
        # Writes of one device are sequential: they share the twin's ETag.
        by_device: dict[str | None, list[int]] = {}
        for at, item in enumerate(items):
            if at not in results:
                by_device.setdefault(item.key.device, []).append(at)

        async def of_device(which: Sequence[int]) -> None:
            for at in which:
                try:
                    results[at] = await self.applied(items[at])
                except CallFailed as failed:
                    results[at] = failed

        await asyncio.gather(*map(of_device, by_device.values()))
        return as_results([results[at] for at in range(len(items))])

    async def _registered(self, items: Sequence[MirrorItem]) -> list[_Done]:
        """The registrations among the items: new and removed ones in one call each, the others one by one."""
        found: dict[int, _Done] = {}
        fresh = [at for at, item in enumerate(items) if item.body is not None and item.remote_version is None]
        if fresh:
            try:
                made = await self._registry.make([items[at] for at in fresh])
            except CallFailed as failed:
                found |= dict.fromkeys(fresh, failed)
            else:
                found |= {at: done for at, done in zip(fresh, made, strict=True) if done is not None}
        left = [at for at in range(len(items)) if at not in found]
        done = await asyncio.gather(*(self._one(items[at]) for at in left), return_exceptions=True)
        going = {at: entry for at, entry in zip(left, done, strict=True) if isinstance(entry, Held)}
        found |= {at: entry for at, entry in zip(left, done, strict=True) if not isinstance(entry, Held)}
        if going:
            try:
                removed = await self._registry.remove(list(going.values()))
                found |= zip(going, removed, strict=True)
                await self._let_go(
                    [each for each, entry in zip(going.values(), removed, strict=True) if _is_done(entry)]
                )
            except CallFailed as failed:
                found |= dict.fromkeys(going, failed)
        return [found[at] for at in range(len(items))]

    async def _let_go(self, gone: Sequence[Held]) -> None:
        if self._links is not None:
            for each in gone:
                await self._links.gone(each.name, linked=is_linked(each))

    async def _one(self, item: MirrorItem) -> MirrorResult | Held:
        if item.body is None:
            return await self._registry.to_remove(item)
        assert isinstance(item.body, RegistryBody)
        return await self._registry.apply(item, item.body)

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        return await self._readings.send(batch, catalog)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        return await self._readings.send_texts(texts, catalog)

    def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        return super().inbound(after) if self._config.commands_by is None else self._inbound.arriving()

    async def check(self) -> Sequence[Finding]:
        return await self._checking.check(self.use)

    def policy(self) -> Mapping[str, str]:
        return policy(self.use, self._config, self._fleet)


def _is_done(result: _Done) -> bool:
    return isinstance(result, MirrorResult) and result.state == "done"
