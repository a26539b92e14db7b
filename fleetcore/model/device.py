"""A device: its record, its lifecycle (what operators decided) and its connectivity (what the server observes)."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from attrs import field, frozen

from fleetcore.errors import IllegalTransition


class Lifecycle(StrEnum):
    """The lifecycle of a device, as operators decided it."""

    REGISTERED = "registered"
    PROVISIONED = "provisioned"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class Connectivity(StrEnum):
    """The observed connectivity of a device; asleep is not offline."""

    ONLINE = "online"
    ASLEEP = "asleep"
    LATE = "late"
    OFFLINE = "offline"
    NEVER = "never"


#: The lifecycle's whole transition table: from → where it may go.
TRANSITIONS: Mapping[Lifecycle, frozenset[Lifecycle]] = MappingProxyType(
    {
        Lifecycle.REGISTERED: frozenset(
            {Lifecycle.PROVISIONED, Lifecycle.ACTIVE, Lifecycle.SUSPENDED, Lifecycle.QUARANTINED, Lifecycle.RETIRED}
        ),
        Lifecycle.PROVISIONED: frozenset(
            {Lifecycle.ACTIVE, Lifecycle.SUSPENDED, Lifecycle.QUARANTINED, Lifecycle.RETIRED}
        ),
        Lifecycle.ACTIVE: frozenset({Lifecycle.SUSPENDED, Lifecycle.QUARANTINED, Lifecycle.RETIRED}),
        Lifecycle.SUSPENDED: frozenset({Lifecycle.ACTIVE, Lifecycle.QUARANTINED, Lifecycle.RETIRED}),
        Lifecycle.QUARANTINED: frozenset({Lifecycle.ACTIVE, Lifecycle.SUSPENDED, Lifecycle.RETIRED}),
        Lifecycle.RETIRED: frozenset(),
    }
)


def check_transition(device: str, old: Lifecycle, new: Lifecycle) -> None:
    """Raises :class:`IllegalTransition` where the table has no move from ``old`` to ``new``."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing: retired is final"
        raise IllegalTransition(
            f"Device {device!r} is {old} and cannot become {new}",
            remedy=f"From {old} it can become: {allowed}",
            device=device,
        )


@frozen(kw_only=True)
class Location:
    """A position in WGS 84 degrees; ``time`` in ms since the epoch, where known."""

    lat: float
    lon: float
    accuracy_m: float | None = None
    alt_m: float | None = None
    speed_mps: float | None = None
    heading: float | None = None
    time: int | None = None
    source: str | None = None


@frozen(kw_only=True)
class Device:
    """A registered device.

    Attributes:
        created, updated: ms since the epoch, the server's clock.
        gateway: the id of this leaf's gateway, or None.
        key_id: SHA-256 (hex) of the SubjectPublicKeyInfo that may enrol without a token, or None.
        home: the mirror whose hub the device is connected to; None for this fleet.
        version: the stored record's version; 0 before it is stored.
    """

    id: str
    type: str
    model: str | None = None
    name: str | None = None
    lifecycle: Lifecycle = Lifecycle.REGISTERED
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, object] = field(factory=dict)
    location: Location | None = None
    gateway: str | None = None
    key_id: str | None = None
    home: str | None = None
    created: int = 0
    updated: int = 0
    version: int = 0


#: A device as a row of an import or export: its members in order.
ROW_MEMBERS = ("id", "type", "model", "name", "tags", "capabilities", "attributes", "location", "gateway", "key_id")


@frozen(kw_only=True)
class Presence:
    """The observed state of a device; times are ms since the epoch, the server's clock."""

    connectivity: Connectivity = Connectivity.NEVER
    last_seen: int | None = None
    asleep_until: int | None = None
    session: str | None = None
