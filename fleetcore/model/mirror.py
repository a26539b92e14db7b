"""What a mirror sends to a cloud hub: entities by facet, each as one frozen record.

A facet is one kind of state, and each of its entities is sent whole, in its current state. Readings are sent
separately.
"""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from fleetcore.model.device import Location

Facet = Literal["group", "registry", "certificate", "twin", "job"]

#: The name of each facet in settings, in the order of the first sending: a device's group before the device, the device
#: before what needs it.
CALLED: Mapping[Facet, str] = {
    "group": "groups", "registry": "registry", "certificate": "certificates", "twin": "twins", "job": "jobs",
}  # fmt: skip


def not_held(facet: "Facet") -> str:
    """The reason why an entity of a facet is not sent to a hub that does not hold the facet."""
    return f"This hub does not hold {CALLED[facet]}"


FACETS: tuple[Facet, ...] = tuple(CALLED)
#: The prefix of a place among the recorded states, in a plan and in a snapshot's progress. They come last: only
#: there are entities that the fleet no longer has.
AMONG_RECORDED = "kept:"
#: Facets whose entities are devices, by their ids.
OF_DEVICES: frozenset[Facet] = frozenset({"registry", "certificate", "twin"})
#: Facets that give a device access. Their removal from the fleet is sent to the hub even where a mirror removes
#: nothing, and does not count against the daily budget.
WITHDRAWN: frozenset[Facet] = frozenset({"certificate"})


@frozen(order=True)
class EntityKey:
    """One entity of a facet: a device's id, a group's name, or the id of a device's part of a campaign."""

    facet: Facet
    id: str

    def __str__(self) -> str:
        return f"{self.facet}/{self.id}"

    @property
    def device(self) -> str | None:
        """The device that it belongs to; None for a group."""
        if self.facet in OF_DEVICES:
            return self.id
        return self.id.partition(":")[2] if self.facet == "job" else None


@frozen(kw_only=True)
class RegistryBody:
    """A device as it is registered.

    Attributes:
        groups: all groups that it is in, sorted.
        location: None unless the mirror is configured to send it.
        via: for a device that came from another fleet, the ids of the fleets that it came through, without this one:
            this breaks loops of mirrors.
    """

    type: str
    lifecycle: str
    model: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    attributes: Mapping[str, object] = field(factory=dict)
    groups: tuple[str, ...] = ()
    gateway: str | None = None
    location: Location | None = None
    via: tuple[str, ...] = ()


@frozen(kw_only=True)
class TwinBody:
    """A device's desired and reported state."""

    desired: Mapping[str, object] = field(factory=dict)
    reported: Mapping[str, object] = field(factory=dict)


@frozen(kw_only=True)
class GroupBody:
    """A group; ``within`` are the groups that contain it, ``query`` selects its members where it is dynamic."""

    description: str = ""
    query: str | None = None
    within: tuple[str, ...] = ()


@frozen(kw_only=True)
class JobBody:
    """One device's part of a firmware campaign."""

    device: str
    campaign: str
    release: str
    url: str
    state: str
    sha256: str | None = None
    size: int | None = None
    progress: float | None = None
    code: str | None = None
    reason: str | None = None


@frozen(kw_only=True)
class DeviceCertificate:
    """A certificate. It is public; only the device has its key.

    Attributes:
        fingerprint: SHA-256 of its DER, in lower-case hexadecimal digits.
        pem: the certificate, without the CA's.
    """

    fingerprint: str
    pem: str


@frozen(kw_only=True)
class CertificateBody:
    """The certificates that give a device access now, by fingerprint: two while a renewed one is not in use yet."""

    certificates: tuple[DeviceCertificate, ...] = ()


MirrorBody = RegistryBody | TwinBody | GroupBody | JobBody | CertificateBody

#: The type of each facet's body. Raised with each change of shape, so that a backend can state which one it supports.
BODIES: Mapping[Facet, type[MirrorBody]] = {
    "group": GroupBody, "registry": RegistryBody, "certificate": CertificateBody, "twin": TwinBody, "job": JobBody,
}  # fmt: skip


@frozen
class Loss:
    """A part of a state that the hub cannot hold: where, as a JSON pointer, and why, in a sentence."""

    path: str
    reason: str


@frozen(kw_only=True)
class EntityState:
    """One entity at one hub.

    Attributes:
        remote_version: the hub's version after our last write.
        digest: of the body at the hub, 32 hexadecimal digits; None where it has none, empty where that is uncertain.
        lost: the parts that the hub cannot hold, the first 20 of ``lost_count``.
        invalid: why it cannot be synchronised in its current state, or None.
        agreed: for a bidirectional entity, the state of fleet and hub at their last agreement; None before the first.
        sent: the state written since, which may have arrived.
        body: the hub's state, as plain data, for facets that its backend remembers.
        paused: why it is not synchronised until it is resumed, or None.
        adopts: whether the hub has it without this fleet's mark and it is to be taken over there: it was imported.
    """

    remote_version: str | None = None
    digest: str | None = None
    lost: tuple[Loss, ...] = ()
    lost_count: int = 0
    invalid: str | None = None
    agreed: Mapping[str, object] | None = None
    sent: Mapping[str, object] | None = None
    body: Mapping[str, object] | None = None
    paused: str | None = None
    adopts: bool = False
