"""What a mirror sends to a cloud hub: entities by facet, each as one frozen record.

A facet is one kind of state, and each of its entities is sent whole, as it is now. Readings have a lane of their own.
"""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

from fleetcore.model.device import Location

Facet = Literal["group", "registry", "certificate", "twin", "job"]

#: What settings call each facet, in the order in which they are first sent: a device's group before the device, the
#: device before what needs it.
CALLED: Mapping[Facet, str] = {
    "group": "groups", "registry": "registry", "certificate": "certificates", "twin": "twins", "job": "jobs",
}  # fmt: skip
FACETS: tuple[Facet, ...] = tuple(CALLED)
#: Those whose entities are devices, by their ids.
OF_DEVICES: frozenset[Facet] = frozenset({"registry", "certificate", "twin"})
#: Those that let a device in. What is gone of them from the fleet is told to the hub also where a mirror removes
#: nothing, and it waits for no day's budget.
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
        """The device that it is of; None for a group."""
        if self.facet in OF_DEVICES:
            return self.id
        return self.id.partition(":")[2] if self.facet == "job" else None


@frozen(kw_only=True)
class RegistryBody:
    """A device as it is registered.

    Attributes:
        groups: all groups that it is in, sorted.
        location: None unless the mirror is told to send it.
        via: of a device that came from another fleet, the ids of the fleets that it came through, this one not among
            them: what ends a loop of mirrors.
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
    """What is wanted of a device and what it reports."""

    desired: Mapping[str, object] = field(factory=dict)
    reported: Mapping[str, object] = field(factory=dict)


@frozen(kw_only=True)
class GroupBody:
    """A group; ``within`` are the groups that it lies in, ``query`` selects its members where it is dynamic."""

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
    """A certificate, which is public; its key is the device's alone.

    Attributes:
        fingerprint: SHA-256 of its DER, in lower-case hexadecimal digits.
        pem: the certificate, without the CA's.
    """

    fingerprint: str
    pem: str


@frozen(kw_only=True)
class CertificateBody:
    """The certificates that let a device in now, by fingerprint: two while a renewed one is not in use yet."""

    certificates: tuple[DeviceCertificate, ...] = ()


MirrorBody = RegistryBody | TwinBody | GroupBody | JobBody | CertificateBody

#: The body of each facet; raised with the shape of one of them, so that a backend can say what it was written for.
BODIES: Mapping[Facet, type[MirrorBody]] = {
    "group": GroupBody, "registry": RegistryBody, "certificate": CertificateBody, "twin": TwinBody, "job": JobBody,
}  # fmt: skip


@frozen
class Loss:
    """A part of a state that the hub cannot hold: where, as a JSON pointer, and why, in a sentence."""

    path: str
    reason: str


@frozen(kw_only=True)
class Kept:
    """One entity at one hub.

    Attributes:
        remote_version: what the hub called its state after our last write.
        digest: of the body that the hub has, 32 hexadecimal digits; None where it has none, empty where it may have.
        lost: what of it the hub cannot hold, the first 20 of ``lost_count``.
        invalid: why it cannot be brought in step as it is, or None.
        agreed: of an entity that goes both ways, what fleet and hub had when they last agreed; None where they never
            did.
        sent: what was written of it since, and may have arrived.
        body: what the hub has, as plain data, of facets that its backend remembers.
        paused: why it is left as it is until it is resumed, or None.
        adopts: whether the hub has it without this fleet's mark, and it is to be taken over there: it was imported.
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
