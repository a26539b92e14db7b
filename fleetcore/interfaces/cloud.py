"""CloudBackend: a cloud IoT hub that the fleet is mirrored to.

The engine (:mod:`fleetcore.pipeline.mirror`) decides what is sent, when, and what becomes of the answer; a backend only
translates. State is level-triggered: an item is the whole present state of one facet of one entity, and applying it
twice equals applying it once. Readings are sent at least once, each device's in their order.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from fleetcore.interfaces.pace import Pace
from fleetcore.interfaces.protocol import Finding
from fleetcore.model.mirror import FACETS, EntityKey, Facet, Loss, MirrorBody
from fleetcore.model.telemetry import SeriesCatalog, TelemetryBatch, TextReading


@frozen(kw_only=True)
class CloudLimits:
    """What a hub takes.

    Attributes:
        items: states of one :meth:`CloudBackend.apply`.
        parallel: calls of it that may be under way.
        readings: of one :meth:`CloudBackend.send`.
        rates: calls a second by class of call, as documented for the hub; ``[clouds.NAME.rates]`` overrides them.
        facets: those that the hub can hold. What else a mirror names is told as such and never sent; certificates are
            held by those hubs alone that say so.
        commands: whether commands come from it.
        readable: whether what it has can be read back. A hub that only receives is never read nor listed: what was sent
            and taken counts for what it has, nothing of it comes into the fleet but commands, and a resynchronisation
            sends everything again.
        readings_after_device: whether readings of a device are refused until it is there: then they wait for it.
        imports: whether what others have made there can be imported: :meth:`CloudBackend.unowned`.
        remembers: facets whose items say what was sent ``last``. Where a state is replaced by naming what goes from it,
            that saves a read before each write.
    """

    items: int = 100
    parallel: int = 4
    readings: int = 500
    rates: Mapping[str, float] = field(factory=dict)
    facets: frozenset[Facet] = frozenset(FACETS) - {"certificate"}
    commands: bool = False
    readable: bool = True
    readings_after_device: bool = False
    imports: bool = False
    remembers: frozenset[Facet] = frozenset()


@frozen(kw_only=True)
class MirrorItem:
    """The present state of one entity; ``body`` None means that it is gone.

    ``remote_version`` is what the last successful :class:`MirrorResult` said, None where nothing is known of the hub's.
    ``last`` is the state that the hub had at that version, of facets that it ``remembers``; None where it is not known.

    ``adopts``: the entity was imported, and may be there without a mark of any fleet. Then it is taken over where it is
    at ``remote_version``; where it is at another one, it is marked and left as it is otherwise, and the result is
    ``conflict``: the engine reads what it has become.
    """

    key: EntityKey
    body: MirrorBody | None
    remote_version: str | None = None
    last: MirrorBody | None = None
    adopts: bool = False


@frozen(kw_only=True)
class Unowned:
    """A device or a group of the hub that this fleet has not made.

    Attributes:
        name: what the hub calls it.
        key: what it would be in the fleet, of the facet ``registry`` or ``group``; None where its name cannot be that.
        reason: why it cannot be imported, in a sentence; empty where it can.
        held: its state as far as the list tells it.
    """

    name: str
    key: EntityKey | None
    reason: str = ""
    held: MirrorItem | None = None


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
class CloudUse:
    """What a mirror does with its hub: a backend asks for no more rights and makes no more there than this needs.

    Attributes:
        sends: facets that are sent.
        reads: facets whose changes at the hub come into the fleet.
        readings: whether readings are sent.
        deletes: whether what is gone from the fleet is removed from the hub. A certificate that is gone opens nothing
            there any more in either case: without it, its item has no body all the same, and what is kept of it at the
            hub may stay.
        commands: whether commands come from the hub.
        imports: whether what others have made at the hub may be imported.
    """

    sends: frozenset[Facet] = frozenset(FACETS)
    reads: frozenset[Facet] = frozenset()
    readings: bool = True
    deletes: bool = True
    commands: bool = False
    imports: bool = False


@frozen(kw_only=True)
class CloudCommand:
    """A command for a device, given at the hub.

    Attributes:
        id: the hub's own; a command that comes twice is run once.
        given: when, ms since the epoch by the hub's clock; None where the hub does not say. A device that was
            connected to the hub then has heard it there.
    """

    id: str
    device: str
    name: str
    args: Mapping[str, object] = field(factory=dict)
    given: int | None = None


@frozen(kw_only=True)
class CloudChange:
    """An entity may have changed at the hub: the engine reads it. One too many costs a call and does no harm."""

    entity: EntityKey


@frozen(kw_only=True)
class Arrived:
    """What came from the hub together.

    Attributes:
        events: in their order.
        invalid: what came and cannot be read, a sentence each; they are counted and logged.
        position: an opaque text; :meth:`CloudBackend.inbound` goes on behind it. None where the hub itself remembers.
    """

    events: Sequence[CloudCommand | CloudChange]
    invalid: Sequence[str] = ()
    position: str | None = None


class CloudBackend(ABC):
    """One hub.

    Raises :class:`~fleetcore.errors.CredentialsRejected` (the mirror pauses until they are good) and
    :class:`~fleetcore.errors.Unavailable` (tried again with back-off); nothing else for a remote failure.

    Attributes:
        identity: which hub it is (an account, a region, an address), the same at each opening. Where it is another one
            than last time, nothing is known of it, and everything is sent.
        limits: of the hub; read once, after it was opened.
        pace: set by the engine. ``await self.pace.take("class")`` stands before each call of the SDK.
        use: set by the engine before it calls anything.
    """

    identity: str = ""
    limits: CloudLimits = CloudLimits()
    use: CloudUse = CloudUse()
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
        """The hub's present states, in order; None for what it has not, or has without this fleet's mark.

        A hub that is not ``readable`` knows of nothing.
        """

    @abstractmethod
    def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """What the hub has of a facet with this fleet's mark, for drift and deletions; an entity may come twice.

        A hub that is not ``readable`` lists nothing.
        """

    @abstractmethod
    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """Sends readings, at most ``limits.readings``, each device's in order, at least once."""

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """The same for readings that are texts. All of them are refused: the default."""
        del catalog
        return Sent(taken=0, refused=dict.fromkeys(range(len(texts)), "This hub is sent numbers alone"))

    def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        """What comes from the hub behind a position, for ever. Nothing: the default.

        The next one is asked for when all of the last one is kept: then, and not before, a backend may take it off
        the hub's queue. It is closed (``aclose``) where the mirror stops, and what was not kept comes again.
        """
        del after
        return _nothing()

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        """The next groups and devices without this fleet's mark, and where the list goes on; all groups first.

        None where ``after`` is not a place of the list any more: it begins anew. Nothing: the default.
        """
        del after
        return (), None

    async def read_unowned(self, found: Sequence[Unowned]) -> Sequence[Sequence[MirrorItem]]:
        """Their states (of ``registry`` and ``twin``, or of ``group``), in order; none of what has gone meanwhile."""
        return [() for _ in found]

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        """The next devices of a group that was imported, by their ids in the fleet, and where the list goes on.

        For hubs whose devices do not say in which groups they are. The default: no members.
        """
        del group, after
        return (), None

    async def check(self) -> Sequence[Finding]:
        """Tries credentials, permissions and quotas, for ``mirror check``. Changes nothing. Nothing: the default."""
        return ()

    def policy(self) -> Mapping[str, str]:
        """The least rights at the hub that :attr:`use` needs, as texts by form (``json``, ``terraform``, …). Pure.

        None: the default.
        """
        return {}


async def _nothing() -> AsyncGenerator[Arrived, None]:
    return
    yield
