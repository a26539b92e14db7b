"""CloudBackend: a cloud IoT hub that the fleet is mirrored to.

The engine (:mod:`fleetcore.pipeline.mirror`) decides what is sent, when, and what becomes of the answer; a backend only
translates. State is level-triggered: an item is the whole present state of one facet of one entity, and applying it
twice equals applying it once. Readings are sent at least once, each device's in their order.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import FACETS, EntityKey, Facet, Loss, MirrorBody
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch


@frozen(kw_only=True)
class CloudLimits:
    """What a hub takes.

    Attributes:
        items: states of one :meth:`CloudBackend.apply`.
        parallel: calls of it that may be under way.
        readings: of one :meth:`CloudBackend.send`.
        rates: calls a second by class of call, as documented for the hub; ``[clouds.NAME.rates]`` overrides them.
        facets: those that the hub can hold.
    """

    items: int = 100
    parallel: int = 4
    readings: int = 500
    rates: Mapping[str, float] = field(factory=dict)
    facets: frozenset[Facet] = frozenset(FACETS)


@frozen(kw_only=True)
class MirrorItem:
    """The present state of one entity; ``body`` None means that it is gone.

    ``remote_version`` is what the last successful :class:`MirrorResult` said, None where nothing is known of the hub's.
    """

    key: EntityKey
    body: MirrorBody | None
    remote_version: str | None = None


@frozen(kw_only=True)
class Fitted:
    """An item as the hub can hold it, and what of it was left out; ``item`` None where nothing can be held."""

    item: MirrorItem | None
    lost: Sequence[Loss] = ()

    @property
    def reason(self) -> str:
        """Why parts of it, or all of it, cannot be held."""
        return "; ".join(loss.reason for loss in self.lost) or "The hub cannot hold it"


@frozen(kw_only=True)
class MirrorResult:
    """What became of one item.

    Attributes:
        state: ``done``; ``conflict`` (the hub's version is another: read); ``throttled`` (try again, after
            ``retry_after_s`` where the hub says so); ``failed`` (try again: the answer was lost, or the hub erred);
            ``invalid`` (it will never fit: ``reason`` says why); ``foreign`` (the hub has an entity of that name which
            this fleet has not made).
    """

    state: Literal["done", "conflict", "throttled", "failed", "invalid", "foreign"]
    remote_version: str | None = None
    reason: str = ""
    retry_after_s: float = 0.0


@frozen(kw_only=True)
class Sent:
    """What became of readings.

    Attributes:
        taken: how many the hub has.
        refused: indices of those that it will never take, with a reason each; they are dead letters.
        rest: indices of those to send again, in their order.
        retry_after_s: when, where the hub says so.
    """

    taken: int
    refused: Mapping[int, str] = field(factory=dict)
    rest: Sequence[int] = ()
    retry_after_s: float = 0.0


@frozen(kw_only=True)
class CloudEvent:
    """Something that comes from the hub.

    Attributes:
        id: the hub's own; one that was handled is not handled again.
        kind: ``command`` (``name`` and ``args`` in the body) or ``desired`` (a merge patch in the body).
        position: an opaque text that continues behind it.
    """

    id: str
    kind: Literal["command", "desired"]
    device: str
    body: Mapping[str, object]
    position: str


class CloudBackend(ABC):
    """One hub.

    Raises :class:`~fleetcore.errors.CredentialsRejected` (the mirror pauses until they are good) and
    :class:`~fleetcore.errors.Unavailable` (tried again with back-off); nothing else for a remote failure.

    Attributes:
        limits: of the hub; read once, after it was opened.
        pace: set by the engine. ``await self.pace.take("class")`` stands before each call of the SDK.
    """

    limits: CloudLimits = CloudLimits()
    pace: Pace

    @abstractmethod
    def fit(self, item: MirrorItem) -> Fitted:
        """The item as the hub can hold it, and what is lost. Pure; the engine sends what this gives."""

    @abstractmethod
    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """Brings the hub to the given states, at most ``limits.items``; one result per item, in order.

        What is made carries a mark of this fleet, and only what carries it is changed or removed.
        """

    @abstractmethod
    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        """The hub's present states, in order; None for what it has not, or has without this fleet's mark."""

    @abstractmethod
    def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """What the hub has of a facet with this fleet's mark, for drift and deletions."""

    @abstractmethod
    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """Sends readings, at most ``limits.readings``, each device's in order, at least once."""

    def inbound(self, after: str | None) -> AsyncIterator[CloudEvent]:
        """What comes from the hub behind a position, for ever. Nothing: the default."""
        del after
        return _nothing()

    async def check(self) -> Sequence[Finding]:
        """Tries credentials, permissions and quotas, for ``doctor`` and ``mirror check``. Nothing: the default."""
        return ()


async def _nothing() -> AsyncIterator[CloudEvent]:
    return
    yield
