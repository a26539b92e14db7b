"""The backend: one facet's module for each item, all of a batch at once, and the failures of the batch."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from fleetcore.interfaces.call_failed import as_results
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
    FACETS,
    Facet,
)
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore_aws.actions import RATES
from fleetcore_aws.brought import BroughtCertificates
from fleetcore_aws.certificates import Certificates
from fleetcore_aws.checking import Checking
from fleetcore_aws.clients import Clients
from fleetcore_aws.config import AwsConfig
from fleetcore_aws.groups import Groups
from fleetcore_aws.importing import Imports
from fleetcore_aws.inbound import Inbound
from fleetcore_aws.jobs import Jobs
from fleetcore_aws.policy import policy
from fleetcore_aws.readings import Readings
from fleetcore_aws.registry import Registry, Things
from fleetcore_aws.twins import Twins

#: The order within a batch: a thing's groups before it, and the thing before what needs it.
_STAGES: Mapping[Facet, int] = {"group": 1, "registry": 2, "certificate": 3, "twin": 3, "job": 3}


def _stage(item: MirrorItem) -> int:
    """AWS refuses to remove a thing with attached certificates, so removals of certificates come first."""
    return 0 if item.key.facet == "certificate" and item.body is None else _STAGES[item.key.facet]


class AwsCloud(FacetBackend):
    """AWS IoT Core for one fleet, whose entities have the mark ``mark``."""

    def __init__(self, config: AwsConfig, fleet: str, mark: str, clients: Clients) -> None:
        self._config, self._fleet, self._mark, self._clients = config, fleet, mark, clients
        # Without a call; so another account is only recognised if it is configured.
        where = (config.account, clients.region, config.endpoint or config.data_endpoint, config.thing_prefix)
        self.identity = "/".join(each or "-" for each in where)
        self.limits = CloudLimits(
            items=100,
            parallel=4,
            rates=RATES,
            facets=frozenset(FACETS),
            commands=config.commands_queue is not None,
            imports=True,
            remembers=frozenset({"twin"}),
        )
        prefix = config.thing_prefix
        things = Things(clients, mark, prefix)
        brought = BroughtCertificates(clients, mark)
        self._registry = Registry(clients, things, brought, prefix)
        self._certificates = Certificates(clients, things, brought, prefix, config.certificate_policy)
        self._twins = Twins(clients, things, prefix, config.shadow)
        self._groups = Groups(clients, mark, prefix)
        self.unowned_part = Imports(clients, mark, prefix, self._groups, config.shadow)
        self._jobs = Jobs(clients, things, prefix)
        self.facets = {
            "registry": self._registry,
            "certificate": self._certificates,
            "twin": self._twins,
            "group": self._groups,
            "job": self._jobs,
        }
        self._readings = Readings(clients, config, fleet)
        self._inbound = Inbound(clients, config)
        self._checking = Checking(clients, config, mark)

    @property
    def pace(self) -> Pace:
        """The rate limits of the actions."""
        return self._clients.pace

    @pace.setter
    def pace(self, pace: Pace) -> None:
        self._clients.pace = pace

    @property
    def use(self) -> CloudUse:
        """What the mirror does with AWS."""
        return self._registry.use

    @use.setter
    def use(self, use: CloudUse) -> None:
        self._registry.use = self._certificates.use = self._twins.use = use

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        results: dict[int, MirrorResult | BaseException] = {}
        for stage in sorted(set(map(_stage, items))):
            which = [at for at, item in enumerate(items) if _stage(item) == stage]
            done = await asyncio.gather(*(self.applied(items[at]) for at in which), return_exceptions=True)
            results |= zip(which, done, strict=True)
        return as_results([results[at] for at in range(len(items))])

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        return await self._readings.send(batch, catalog)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        return await self._readings.send_texts(texts, catalog)

    def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        return super().inbound(after) if self._config.commands_queue is None else self._inbound.arriving()

    async def check(self) -> Sequence[Finding]:
        return await self._checking.check(self.use)

    def policy(self) -> Mapping[str, str]:
        return policy(self.use, self._config, self._fleet, self._mark)
