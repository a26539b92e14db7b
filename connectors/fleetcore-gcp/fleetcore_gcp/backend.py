"""The backend: publishes states and readings, receives commands, and cannot read anything back."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from fleetcore.interfaces.clock import Clock
from fleetcore.interfaces.cloud import (
    Arrived,
    CloudBackend,
    CloudLimits,
    CloudUse,
    Fitted,
    MirrorItem,
    MirrorResult,
    Sent,
)
from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import EntityKey, Facet
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading
from fleetcore_gcp.checking import Checking
from fleetcore_gcp.clients import Clients
from fleetcore_gcp.config import GcpConfig
from fleetcore_gcp.inbound import Inbound
from fleetcore_gcp.making import Making
from fleetcore_gcp.permissions import RATES
from fleetcore_gcp.policy import policy
from fleetcore_gcp.publishing import Publisher
from fleetcore_gcp.readings import Readings
from fleetcore_gcp.states import States
from fleetcore_gcp.topics import TOPICS


class PubSubCloud(CloudBackend):
    """Google Cloud Pub/Sub for one fleet; its messages have the mark ``mark``."""

    def __init__(self, config: GcpConfig, fleet: str, mark: str, clients: Clients, clock: Clock) -> None:
        self._config, self._fleet, self._clients = config, fleet, clients
        self.identity = f"{config.project}/{config.host}/{config.prefix}"
        self.limits = CloudLimits(
            items=100, parallel=4, readings=5000, rates=RATES, facets=frozenset(TOPICS), commands=True, readable=False
        )
        self.use = CloudUse()
        making = Making(clients, config)
        publisher = Publisher(clients, config, making, clock)
        self._states = States(publisher, fleet, mark, clock)
        self._readings = Readings(publisher, fleet, mark)
        self._inbound = Inbound(clients, config, making, clock)
        self._checking = Checking(clients, config)

    @property
    def pace(self) -> Pace:
        """The rate limits of Pub/Sub."""
        return self._clients.pace

    @pace.setter
    def pace(self, pace: Pace) -> None:
        self._clients.pace = pace

    def fit(self, item: MirrorItem) -> Fitted:
        return self._states.fit(item)

    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        return await self._states.apply(items)

    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        return [None for _ in keys]

    async def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        nothing: Sequence[EntityKey] = ()
        for key in nothing:
            if key.facet == facet:
                yield key

    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        return await self._readings.send(batch, catalog)

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        return await self._readings.send_texts(texts, catalog)

    def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        return self._inbound.arriving() if self.use.commands else super().inbound(after)

    async def check(self) -> Sequence[Finding]:
        return await self._checking.check(self.use)

    def policy(self) -> Mapping[str, str]:
        return policy(self.use, self._config, self._fleet)
