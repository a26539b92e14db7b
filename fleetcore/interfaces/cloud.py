"""CloudBackend: a cloud IoT hub that the fleet is mirrored to.

The engine (:mod:`fleetcore.pipeline.mirror`) decides what is sent and when, and handles the answers; a backend only
translates. State is level-triggered: an item is the whole current state of one facet of one entity, and applying it
twice equals applying it once. Readings are sent at least once, in order per device.
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
    """The limits and abilities of a hub.

    Attributes:
        items: the most states of one :meth:`CloudBackend.apply`.
        parallel: the most calls of it at the same time.
        readings: the most readings of one :meth:`CloudBackend.send`.
        rates: calls a second by class of call, as documented for the hub; ``[clouds.NAME.rates]`` overrides them.
        facets: the facets that the hub can hold. Other facets that a mirror names are reported and never sent. A hub
            holds certificates only where it lists them here.
        commands: whether commands come from it.
        readable: whether its state can be read back. A write-only hub is never read or listed: what was sent and
            accepted counts as its state, only commands come from it, and a resynchronisation sends everything again.
        readings_after_device: whether the hub refuses readings of a device that it does not have yet; they then wait
            for the device.
        imports: whether entities that others made there can be imported: :meth:`CloudBackend.unowned`.
        remembers: facets whose items carry the state that was sent ``last``. Where a write must name the parts to
            remove, this saves a read before each write.
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
    """The current state of one entity; ``body`` None means that it is gone.

    ``remote_version`` is the version in the last successful :class:`MirrorResult`, None where the hub's state is
    unknown. ``last`` is the hub's state at that version, for facets that it ``remembers``; None where it is unknown.

    ``adopts``: the entity was imported, and may not carry a fleet's mark yet. At ``remote_version`` the backend takes
    it over. At another version the backend only marks it, and the result is ``conflict``: the engine then reads its new
    state.
    """

    key: EntityKey
    body: MirrorBody | None
    remote_version: str | None = None
    last: MirrorBody | None = None
    adopts: bool = False


@frozen(kw_only=True)
class Unowned:
    """A device or a group at the hub that this fleet has not made.

    Attributes:
        name: its name at the hub.
        key: the key it would have in the fleet, of the facet ``registry`` or ``group``; None where its name is not
            allowed there.
        reason: why it cannot be imported, in a sentence; empty where it can.
        held: its state as far as the list shows it.
    """

    name: str
    key: EntityKey | None
    reason: str = ""
    held: MirrorItem | None = None


@frozen(kw_only=True)
class Fitted:
    """An item as the hub can hold it, and the parts left out; ``item`` None where the hub can hold nothing of it."""

    item: MirrorItem | None
    lost: Sequence[Loss] = ()

    @property
    def reason(self) -> str:
        """Why the hub cannot hold parts of it, or all of it."""
        return "; ".join(loss.reason for loss in self.lost) or "The hub cannot hold it"


@frozen(kw_only=True)
class MirrorResult:
    """The result of one item.

    Attributes:
        state: ``done``; ``conflict`` (the hub has another version: read it); ``throttled`` (try again, after
            ``retry_after_s`` where the hub gives it); ``failed`` (try again: the answer was lost, or the hub had an
            error); ``invalid`` (it will never fit; ``reason`` says why); ``foreign`` (the hub has an entity of that
            name which this fleet has not made).
    """

    state: Literal["done", "conflict", "throttled", "failed", "invalid", "foreign"]
    remote_version: str | None = None
    reason: str = ""
    retry_after_s: float = 0.0


@frozen(kw_only=True)
class Sent:
    """The result of sending readings.

    Attributes:
        taken: how many the hub accepted.
        refused: the indices of readings that it will never accept, with a reason each; they become dead letters.
        rest: the indices of readings to send again, in order.
        retry_after_s: when to send them, where the hub says so.
    """

    taken: int
    refused: Mapping[int, str] = field(factory=dict)
    rest: Sequence[int] = ()
    retry_after_s: float = 0.0


@frozen(kw_only=True)
class CloudUse:
    """What a mirror uses its hub for. A backend requests no more rights and creates no more there than this needs.

    Attributes:
        sends: facets that are sent.
        reads: facets whose changes at the hub come into the fleet.
        readings: whether readings are sent.
        deletes: whether entities that left the fleet are removed from the hub. A certificate that left the fleet loses
            its access in either case: without ``deletes``, its item still has no body, and its record at the hub may
            stay.
        commands: whether commands come from the hub.
        imports: whether entities that others made at the hub may be imported.
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
        id: the hub's id; a command that comes twice runs once.
        given: when, ms since the epoch by the hub's clock; None where the hub does not say. A device that was connected
            to the hub at that time has received it there.
    """

    id: str
    device: str
    name: str
    args: Mapping[str, object] = field(factory=dict)
    given: int | None = None


@frozen(kw_only=True)
class CloudChange:
    """An entity may have changed at the hub: the engine reads it. A superfluous hint only costs one call."""

    entity: EntityKey


@frozen(kw_only=True)
class Arrived:
    """Changes and commands that came from the hub together.

    Attributes:
        events: in their order.
        invalid: a sentence for each message that cannot be read; they are counted and logged.
        position: an opaque text from which :meth:`CloudBackend.inbound` continues. None where the hub itself remembers
            it.
    """

    events: Sequence[CloudCommand | CloudChange]
    invalid: Sequence[str] = ()
    position: str | None = None


class CloudBackend(ABC):
    """One hub.

    A remote failure raises only :class:`~fleetcore.errors.CredentialsRejected` (the mirror pauses until they are
    accepted) or :class:`~fleetcore.errors.Unavailable` (retried with back-off).

    Attributes:
        identity: identifies the hub (an account, a region, an address), the same at each opening. When it changes, the
            stored state of the hub is dropped and everything is sent.
        limits: of the hub; read once, after opening.
        pace: set by the engine. ``await self.pace.take("class")`` precedes each call of the SDK.
        use: set by the engine before its first call.
    """

    identity: str = ""
    limits: CloudLimits = CloudLimits()
    use: CloudUse = CloudUse()
    pace: Pace

    @abstractmethod
    def fit(self, item: MirrorItem) -> Fitted:
        """The item as the hub can hold it, and the parts that are lost. Pure; the engine sends the result."""

    @abstractmethod
    async def apply(self, items: Sequence[MirrorItem]) -> Sequence[MirrorResult]:
        """Brings the hub to the given states, at most ``limits.items``; one result per item, in order.

        Entities that it creates carry this fleet's mark, and it changes or removes only entities that carry it.
        """

    @abstractmethod
    async def read(self, keys: Sequence[EntityKey]) -> Sequence[MirrorItem | None]:
        """The hub's current states, in order; None for an entity that is missing or does not carry this fleet's mark.

        A hub that is not ``readable`` answers None for all.
        """

    @abstractmethod
    def entities(self, facet: Facet) -> AsyncIterator[EntityKey]:
        """The hub's entities of a facet with this fleet's mark, for drift and deletions; an entity may come twice."""

    @abstractmethod
    async def send(self, batch: TelemetryBatch, catalog: SeriesCatalog) -> Sent:
        """Sends readings, at most ``limits.readings``, each device's in order, at least once."""

    async def send_texts(self, texts: Sequence[TextReading], catalog: SeriesCatalog) -> Sent:
        """As :meth:`send`, for text readings. By default all of them are refused."""
        del catalog
        return Sent(taken=0, refused=dict.fromkeys(range(len(texts)), "This hub is sent numbers alone"))

    def inbound(self, after: str | None) -> AsyncGenerator[Arrived, None]:
        """Batches that come from the hub after a position, without end. By default there are none.

        The engine asks for the next batch once the last one is stored: only then may a backend remove that one from the
        hub's queue. The iterator is closed (``aclose``) when the mirror stops, and what was not stored comes again.
        """
        del after
        return _nothing()

    async def unowned(self, after: str | None) -> tuple[Sequence[Unowned], str | None] | None:
        """The next groups and devices without this fleet's mark, and where the list continues; all groups first.

        None where ``after`` is no longer a place in the list: the caller starts again. By default there are none.
        """
        del after
        return (), None

    async def read_unowned(self, found: Sequence[Unowned]) -> Sequence[Sequence[MirrorItem]]:
        """Their states (``registry`` and ``twin``, or ``group``), in order, without those that have gone meanwhile."""
        return [() for _ in found]

    async def members(self, group: EntityKey, after: str | None) -> tuple[Sequence[str], str | None]:
        """The next devices of an imported group, by their ids in the fleet, and where the list continues.

        For hubs whose devices do not list their groups. By default there are no members.
        """
        del group, after
        return (), None

    async def check(self) -> Sequence[Finding]:
        """Checks credentials, permissions and quotas, for ``mirror check``; changes nothing. By default no checks."""
        return ()

    def policy(self) -> Mapping[str, str]:
        """The least rights at the hub that :attr:`use` needs, as texts by form (``json``, ``terraform``, …). Pure.

        By default there are none.
        """
        return {}


async def _nothing() -> AsyncGenerator[Arrived, None]:
    return
    yield
