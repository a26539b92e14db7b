"""CloudBackend: a cloud IoT hub that the fleet is mirrored to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch

Facet = Literal["registry", "twin"]


@frozen(kw_only=True)
class MirrorItem:
    """The present state of one facet of one entity; ``body`` None means it is gone.

    ``remote_version`` is what the last successful :class:`MirrorResult` said, None for the first time.
    """

    entity: str
    facet: Facet
    body: Mapping[str, object] | None
    remote_version: str | None = None


@frozen(kw_only=True)
class MirrorResult:
    """What became of one item.

    Attributes:
        state: ``done``; ``conflict`` (the remote version is another: read and merge); ``throttled`` (try again after
            ``retry_after_s``); ``invalid`` (it will never fit: ``reason`` says why).
    """

    state: Literal["done", "conflict", "throttled", "invalid"]
    remote_version: str | None = None
    reason: str = ""
    retry_after_s: float = 0.0
    lost: Sequence[str] = field(factory=tuple)


class CloudBackend(ABC):
    """Writes the fleet's state and telemetry to one hub.

    State is level-triggered: an item is the whole present state, and applying it twice equals applying it once.
    Raises :class:`~fleetcore.errors.CredentialsRejected` (the mirror pauses) and
    :class:`~fleetcore.errors.Unavailable` (retried with back-off); nothing else for a remote failure.
    """

    @abstractmethod
    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """Brings the hub to the given states; one result per item, in order. Different items may go in parallel."""

    @abstractmethod
    async def read(self, entity: str, facet: Facet) -> MirrorItem | None:
        """The hub's present state of a facet, or None where it has none."""

    @abstractmethod
    async def send_telemetry(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> int:
        """Sends readings, each device's in order, at least once; returns how many the hub took."""

    @abstractmethod
    def fit(self, item: MirrorItem) -> Sequence[str]:
        """Why the hub cannot hold the item, or parts of it: the semantic-loss report. Pure; empty where it fits."""
